"""Compiling and masks: every library through every constraint, for every vocabulary, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from rich.table import Table

from constrained_decoding.libraries import Followed, Library
from constrained_decoding.patterns import EXAMPLES, Case

Say = Callable[[str], None]
_COMPILE_TARGET = 0.050
_MASK_TARGET = 0.001


@dataclass(frozen=True, slots=True)
class MaskTimes:
    """Of one library and one constraint, in seconds: medians over the runs.

    Attributes:
        first: to compile and make the first mask.
        mean, longest: of the masks after each token of the text.
        new_state, new_states: the mean over states not visited before, and how many there are.
        error: why there are no times.
    """

    first: float = 0.0
    mean: float = 0.0
    longest: float = 0.0
    new_state: float | None = None
    new_states: int = 0
    error: str | None = None


@dataclass(slots=True)
class MaskFigures:
    """Of one vocabulary: per library the seconds to get ready, and per constraint its times."""

    vocabulary: str
    prepared: dict[str, float] = field(default_factory=dict)
    times: dict[str, dict[str, MaskTimes]] = field(default_factory=dict)


def measure_masks(
    vocabulary: str, libraries: Sequence[Library], chosen: Sequence[Case], runs: int, say: Say
) -> MaskFigures:
    """Each constraint ``runs`` times, the libraries in turn."""
    figures = MaskFigures(vocabulary, {library.name: library.prepared for library in libraries})
    for case in chosen:
        say(f"masks, {vocabulary}: {case.name}")
        followed: dict[str, list[Followed]] = {library.name: [] for library in libraries}
        for _ in range(runs):
            for library in libraries:
                done = followed[library.name]
                if not (done and done[-1].error):
                    done.append(library.follow(case))
        figures.times[case.name] = {name: _summary(done) for name, done in followed.items()}
    return figures


def _summary(followed: Sequence[Followed]) -> MaskTimes:
    error = followed[-1].error
    if error is not None:
        return MaskTimes(error=error)
    masks = [median(times) for times in zip(*(one.masks for one in followed), strict=True)]
    new = [seconds for seconds, is_new in zip(masks, followed[0].is_new, strict=False) if is_new]
    return MaskTimes(
        first=median(one.first for one in followed),
        mean=fmean(masks),
        longest=max(masks),
        new_state=fmean(new) if new else None,
        new_states=len(new),
    )


def mask_table(figures: MaskFigures) -> Table:
    """Compile and mask times side by side."""
    names = list(figures.prepared)
    table = Table(f"{figures.vocabulary}: compile + first mask (ms) | next mask, mean / max (µs)")
    for name in names:
        table.add_column(name, justify="right")
        if name == "Ramet":
            table.add_column("of a new state", justify="right")
    for case, per_library in figures.times.items():
        cells: list[str] = []
        for name in names:
            times = per_library[name]
            cells.append(_cell(times))
            if name == "Ramet":
                known = times.new_state is not None
                cells.append(f"{times.new_state * 1e6:,.0f} ({times.new_states})" if known else "-")  # type: ignore[operator]
        table.add_row(case, *cells)
    ready = (f"{figures.prepared[name] * 1e3:,.0f} ms" for name in names)
    table.add_section()
    table.add_row(
        "once per vocabulary",
        *(cell for name, time in zip(names, ready, strict=True) for cell in _padded(name, time)),
    )
    return table


def _padded(name: str, cell: str) -> list[str]:
    return [cell, ""] if name == "Ramet" else [cell]


def _cell(times: MaskTimes) -> str:
    if times.error is not None:
        return "refused"
    return f"{times.first * 1e3:,.1f} | {times.mean * 1e6:,.0f} / {times.longest * 1e6:,.0f}"


def mask_notes(figures: MaskFigures) -> list[str]:
    """What was refused and why; the slowest against the targets."""
    notes = [
        f"{figures.vocabulary}: {name} on {case}: {times.error}"
        for case, per_library in figures.times.items()
        for name, times in per_library.items()
        if times.error is not None
    ]
    ours = {case: per_library["Ramet"] for case, per_library in figures.times.items()}
    good = {case: times for case, times in ours.items() if times.error is None}
    of_examples = [times.first for case, times in good.items() if case.startswith(EXAMPLES)]
    if of_examples:
        first = max(of_examples)
        notes.append(
            f"{figures.vocabulary}: compile + first mask for examples/, at most: {first * 1e3:.1f} ms "
            f"(target at most {_COMPILE_TARGET * 1e3:.0f} ms: {_met(first <= _COMPILE_TARGET)})"
        )
    if good:
        slowest = max(good, key=lambda case: good[case].first)
        notes.append(
            f"{figures.vocabulary}: slowest to compile is {slowest}, {good[slowest].first * 1e3:.1f} ms"
        )
        new = [(times.new_state, times.new_states) for times in good.values() if times.new_state is not None]
        count = sum(number for _, number in new)
        if count:
            mean = sum(seconds * number for seconds, number in new) / count
            notes.append(
                f"{figures.vocabulary}: {mean * 1e6:,.0f} µs for a new state, mean of {count} "
                f"(target at most {_MASK_TARGET * 1e6:,.0f} µs: {_met(mean <= _MASK_TARGET)})"
            )
        notes += [
            f"{figures.vocabulary}: above that target: {case}, {times.new_state * 1e6:,.0f} µs"
            for case, times in good.items()
            if times.new_state is not None and times.new_state > _MASK_TARGET
        ]
    return notes


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"
