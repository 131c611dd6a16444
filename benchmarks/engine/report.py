"""From times to tables: figures, ratios, the machine's limits and the share of them reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.table import Table

from engine.limits import KINDS, READ, READ_BY_ONE, Limits
from engine.model_facts import ModelFacts
from engine.workloads import Figure

RAMET = "Ramet"


@dataclass(slots=True)
class Measured:
    """All times taken, and why some are missing.

    Attributes:
        seconds: per figure and engine, one time per run.
        failures: per session and engine, the reason.
        agreement: per figure and peer, how many first tokens were the same as Ramet's, of how many.
        work: per figure, what Ramet counted in its last run.
        limits: per session, what the machine could do at most, measured before each run.
    """

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    agreement: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    work: dict[str, dict[str, int]] = field(default_factory=dict)
    limits: dict[str, list[Limits]] = field(default_factory=dict)

    def add(self, figure: str, engine: str, seconds: float) -> None:
        """One more run."""
        self.seconds.setdefault(figure, {}).setdefault(engine, []).append(seconds)

    def median(self, figure: str, engine: str) -> float | None:
        """The median time, if there is any."""
        times = self.seconds.get(figure, {}).get(engine)
        return median(times) if times else None


def figure_table(measured: Measured, figures: Mapping[str, Figure], engines: Sequence[str]) -> Table:
    """Each figure of each engine; in brackets how many times faster Ramet is."""
    table = Table("workload", "", *engines, "Ramet / best peer")
    for name, figure in figures.items():
        if name not in measured.seconds:
            continue
        ours = measured.median(name, RAMET)
        cells = [_cell(figure, measured.median(name, engine), ours, engine) for engine in engines]
        table.add_row(figure.title, figure.unit, *cells, _against_best(measured, name, figure, engines))
    return table


def _cell(figure: Figure, seconds: float | None, ours: float | None, engine: str) -> str:
    if seconds is None:
        return "-"
    value = figure.value(seconds)
    text = f"{value:,.2f}" if figure.unit == "s" and value < 10 else f"{value:,.1f}"
    if engine == RAMET or ours is None:
        return text
    return f"{text} ({figure.speedup(ours, seconds):.2f}x)"


def _against_best(measured: Measured, name: str, figure: Figure, engines: Sequence[str]) -> str:
    ours = measured.median(name, RAMET)
    theirs = [measured.median(name, engine) for engine in engines if engine != RAMET]
    best = min((seconds for seconds in theirs if seconds is not None), default=None)
    return "-" if ours is None or best is None else f"{figure.speedup(ours, best):.2f}x"


def limit_table(limits: Limits, threads: int) -> Table:
    """What the machine can do."""
    table = Table(f"limits, {threads} threads", *KINDS)
    for title, suffix in (("matrix product, large", ""), ("the same of 32 rows", " of 32 rows")):
        rates = (f"{limits[kind + suffix] / 1e9:,.0f}" for kind in KINDS)
        table.add_row(f"{title}, G operations/s", *rates)
    one = f"1 thread: {limits[READ_BY_ONE] / 1e9:.1f}"
    table.add_row("memory read, GB/s", f"{limits[READ] / 1e9:.1f}", one, "")
    return table


def shares(
    measured: Measured, figures: Mapping[str, Figure], facts: ModelFacts
) -> dict[str, dict[str, float]]:
    """Per limit and engine, the share of it reached: the median of the runs, each beside its limit."""
    # Two operations per weight and token; the head is computed for one token of a prompt only.
    per_token = {"int8": 2 * facts.layer_weights, "bf16": 2 * facts.layer_weights, READ: facts.decode_bytes}
    found: dict[str, dict[str, float]] = {}
    for name, of_runs in measured.limits.items():
        for limit in of_runs[0]:
            ceilings = [limits[limit] / per_token[limit] for limits in of_runs]
            title = f"({name}) of {limit}, {median(ceilings):,.0f} tok/s"
            for engine, times in measured.seconds.get(name, {}).items():
                rates = map(figures[name].value, times)
                found.setdefault(title, {})[engine] = median(
                    rate / ceiling for rate, ceiling in zip(rates, ceilings, strict=False)
                )
    return found


def share_table(found: Mapping[str, Mapping[str, float]], engines: Sequence[str]) -> Table:
    """`shares` as percentages."""
    table = Table("share of the limit", *engines)
    for title, per_engine in found.items():
        table.add_row(title, *(f"{per_engine[e]:.0%}" if e in per_engine else "-" for e in engines))
    return table


def notes(measured: Measured, figures: Mapping[str, Figure], engines: Sequence[str]) -> list[str]:
    """What a reader should know besides: growth with the prompt, agreement, work, failures."""
    lines: list[str] = []
    for engine in engines:
        for kind in ("", " cached"):
            long, short = (measured.median(f"e {n}{kind}", engine) for n in (4000, 100))
            if long is not None and short is not None:
                how = "cached" if kind else "cold"
                lines.append(f"(e) {how}, long prompt against short, {engine}: {long / short:.2f}x the time")
    for name, per_peer in measured.agreement.items():
        same = ", ".join(f"{peer} {equal}/{count}" for peer, (equal, count) in per_peer.items())
        lines.append(f"first tokens as Ramet's, {figures[name].title}: {same}")
    for name, work in measured.work.items():
        counted = ", ".join(f"{value:,} {what.replace('_', ' ')}" for what, value in work.items())
        lines.append(f"work of Ramet, {figures[name].title}: {counted}")
    for session, per_engine in measured.failures.items():
        lines += [f"({session}) {engine} failed: {reason}" for engine, reason in per_engine.items()]
    return lines
