"""From times to tables: figures, ratios, the machine's limits and the share of them reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.table import Table

from engine.limits import Limits
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
    """

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    agreement: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    work: dict[str, dict[str, int]] = field(default_factory=dict)

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


def limit_table(limits: Limits) -> Table:
    """What the machine can do."""
    table = Table(f"limits, {limits.threads} threads", "int8", "bf16", "f32")
    large, few = (
        (limits.int8, limits.bf16, limits.f32),
        (
            limits.int8_few_rows,
            limits.bf16_few_rows,
            limits.f32_few_rows,
        ),
    )
    table.add_row("matrix product, large, G operations/s", *(f"{rate / 1e9:,.0f}" for rate in large))
    table.add_row("the same of 32 rows", *(f"{rate / 1e9:,.0f}" for rate in few))
    table.add_row(
        "memory read, GB/s", f"{limits.read / 1e9:.1f}", f"1 thread: {limits.read_one_thread / 1e9:.1f}", ""
    )
    return table


def shares(
    measured: Measured, figures: Mapping[str, Figure], limits: Limits, facts: ModelFacts
) -> dict[str, dict[str, float]]:
    """Per limit and engine, the share of it reached."""
    # Two operations per weight and token; the head is computed for one token of a prompt only.
    operations = 2 * facts.layer_weights
    in_memory = limits.read / facts.decode_bytes
    ceilings = {
        f"(a) of int8, {limits.int8 / operations:,.0f} tok/s": ("a", limits.int8 / operations),
        f"(a) of bf16, {limits.bf16 / operations:,.0f} tok/s": ("a", limits.bf16 / operations),
        f"(b) of memory, {in_memory:,.0f} tok/s at {facts.decode_bytes / 1e6:.0f} MB": ("b", in_memory),
    }
    found: dict[str, dict[str, float]] = {}
    for title, (name, ceiling) in ceilings.items():
        for engine, times in measured.seconds.get(name, {}).items():
            found.setdefault(title, {})[engine] = figures[name].value(median(times)) / ceiling
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
