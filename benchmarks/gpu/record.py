"""Everything a run found, as it comes in; as tables and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gpu.settings import Cell, Event, Limits


@dataclass(slots=True)
class Outcome:
    """What became of a section.

    Attributes:
        state: ``running``, ``done``, ``failed``, ``skipped``, or ``no time``.
        reason: why it is not done.
        tables: lines by title.
    """

    state: str = "running"
    reason: str = ""
    seconds: float = 0.0
    tables: dict[str, list[dict[str, Cell]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """A run. Events are pairs of what is told and its value:

    ``begin`` and a section's name; then any number of ``row`` (title, cells), ``note`` (text), ``limits``
    and ``environment``; then ``end`` (state, reason, seconds).
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    limits: Limits | None = None
    running: str | None = None

    def take(self, event: Event) -> None:
        """One more event."""
        kind, value = event
        match kind:
            case "begin":
                self.running = value
                self.outcomes[value] = Outcome()
            case "limits":
                self.limits = value
            case "environment":
                self.environment = value
            case "row":
                title, cells = value
                self._now.tables.setdefault(title, []).append(cells)
            case "note":
                self._now.notes.append(value)
            case "end":
                self.end(*value)
            case _:
                raise ValueError(f"no event {kind!r}")

    def end(self, state: str, reason: str, seconds: float) -> None:
        """The section that runs has ended."""
        self._now.state, self._now.reason, self._now.seconds = state, reason, seconds
        self.running = None

    @property
    def _now(self) -> Outcome:
        assert self.running is not None
        return self.outcomes[self.running]

    def failed(self) -> list[str]:
        """Names of sections that failed or were not reached."""
        return [name for name, outcome in self.outcomes.items() if outcome.state in ("failed", "no time")]

    def write(self, path: Path) -> None:
        """All of it as JSON, numbers as they were measured."""
        written = {
            "environment": self.environment,
            "limits": None if self.limits is None else asdict(self.limits),
            "sections": {name: asdict(outcome) for name, outcome in self.outcomes.items()},
        }
        path.write_text(json.dumps(written, indent=1))


def show(name: str, outcome: Outcome, console: Console) -> None:
    """The tables of a section, and what became of it."""
    for title, rows in outcome.tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = Table(title=title, title_justify="left")
        for column in columns:
            is_number = all(isinstance(row.get(column), int | float | None) for row in rows)
            table.add_column(column, justify="right" if is_number else "left")
        for row in rows:
            table.add_row(*(text_of(column, row.get(column)) for column in columns))
        console.print(table)
    for note in outcome.notes:
        console.print(f"  {note}", highlight=False, markup=False)
    reason = f": {outcome.reason}" if outcome.reason else ""
    console.print(f"{name}: {outcome.state}, {outcome.seconds:.1f} s{reason}", highlight=False, markup=False)


def text_of(column: str, cell: Cell) -> str:
    """A cell as people read it: shares in percent, other numbers to three digits or to the unit."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if "share" in column.split():
        return f"{cell:.1%}"
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.1f}"
