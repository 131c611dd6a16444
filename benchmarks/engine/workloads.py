"""What is asked of an engine: calls grouped into sessions, and the figures read off their times.

A session begins with nothing cached. Its calls follow one another, and each adds its time to one figure or to
none. Token ids are fresh in every session and lie away from the ends of the vocabulary, where special tokens
are. Knows nothing of engines and times.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Unit: TypeAlias = Literal["prompt tok/s", "output tok/s", "s"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. ``tokens`` is what a rate divides by seconds; times have none."""

    title: str
    unit: Unit
    tokens: int = 0

    def value(self, seconds: float) -> float:
        """The figure for a time."""
        return seconds if self.unit == "s" else self.tokens / seconds

    def speedup(self, seconds: float, other: float) -> float:
        """How many times faster ``seconds`` is than ``other``, whatever the unit."""
        return other / seconds


@dataclass(frozen=True, slots=True)
class Call:
    """Prompts given at once: ``prefix + suffix`` each. ``figure`` names the figure its time belongs to."""

    prefix: list[int]
    suffixes: list[list[int]]
    max_tokens: int
    cache: bool = True
    figure: str | None = None

    def message(self) -> dict[str, Any]:
        """As an engine is asked."""
        fields = asdict(self)
        del fields["figure"]
        return fields


Session: TypeAlias = list[Call]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; `shrunk` is for seeing that the benchmark works."""

    divisor: int = 1

    def __call__(self, count: int) -> int:
        return max(count // self.divisor, 1)


class Workloads:
    """The workloads for a vocabulary: their figures, and sessions with fresh ids."""

    def __init__(self, vocab_size: int, rng: random.Random, sizes: Sizes = Sizes()) -> None:
        margin = min(1000, vocab_size // 8)
        self._lowest, self._highest = margin, vocab_size - margin
        self._rng = rng
        self._of = sizes
        self.figures: Mapping[str, Figure] = _figures(sizes)

    def names(self, letter: str) -> tuple[str, ...]:
        """The sessions of a workload; each may be asked for on its own."""
        return SESSIONS[letter]

    def session(self, name: str) -> Session:
        """A session with fresh ids."""
        of = self._of
        match name:
            case "a":
                return [Call([], self._many(16, 1024), 1, figure="a")]
            case "b":
                return [Call([], self._many(1, 32, count_shrinks=False), of(256), figure="b")]
            case "c":
                return [Call([], self._many(32, 32), of(128), figure="c")]
            case "d":
                return [self._shared(64, 1000, 50, 16, figure="d")]
            case "d primed":
                whole = self._shared(64, 1000, 50, 16, figure=name)
                first, rest = whole.suffixes[:1], whole.suffixes[1:] or whole.suffixes
                return [Call(whole.prefix, part, whole.max_tokens, figure=name) for part in (first, rest)]
            case "d off":
                return [self._shared(64, 1000, 50, 16, cache=False, figure=name)]
            case "e 4000" | "e 100":
                prompt = 4000 if name == "e 4000" else 100
                cold = self._shared(16, prompt, 8, 64, figure=name)
                again = self._many(16, 8)
                return [cold, Call(cold.prefix, again, cold.max_tokens, figure=f"{name} cached")]
        raise ValueError(f"no session {name!r}")

    def _shared(
        self, count: int, prefix: int, own: int, max_tokens: int, *, figure: str, cache: bool = True
    ) -> Call:
        of = self._of
        return Call(self._ids(of(prefix)), self._many(count, own), of(max_tokens), cache, figure)

    def _many(self, count: int, length: int, *, count_shrinks: bool = True) -> list[list[int]]:
        return [self._ids(self._of(length)) for _ in range(self._of(count) if count_shrinks else count)]

    def _ids(self, length: int) -> list[int]:
        return [self._rng.randrange(self._lowest, self._highest) for _ in range(length)]


SESSIONS: Mapping[str, tuple[str, ...]] = {
    "a": ("a",),
    "b": ("b",),
    "c": ("c",),
    "d": ("d", "d primed", "d off"),
    "e": ("e 4000", "e 100"),
}


def _figures(of: Sizes) -> dict[str, Figure]:
    many, branches = (
        f"{of(64)} x {of(16)} after {of(1000):,} shared + {of(50)} own",
        f"{of(16)} x {of(64)} after",
    )
    return {
        "a": Figure(f"(a) {of(16)} prompts of {of(1024):,}", "prompt tok/s", of(16) * of(1024)),
        "b": Figure(f"(b) 1 x {of(256)} after {of(32)}", "output tok/s", of(256)),
        "c": Figure(f"(c) {of(32)} x {of(128)} after {of(32)}", "output tok/s", of(32) * of(128)),
        "d": Figure(f"(d) {many}, all at once", "s"),
        "d primed": Figure(f"(d) {many}, one first, then the rest", "s"),
        "d off": Figure(f"(d) {many}, cache off", "s"),
        "e 4000": Figure(f"(e) {branches} {of(4000):,}, cold", "s"),
        "e 4000 cached": Figure(f"(e) {branches} {of(4000):,}, cached", "s"),
        "e 100": Figure(f"(e) {branches} {of(100)}, cold", "s"),
        "e 100 cached": Figure(f"(e) {branches} {of(100)}, cached", "s"),
    }
