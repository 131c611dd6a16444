"""Regular languages over text, as trees: made from regexes and JSON schemas, and made into automata.

Invariant: a node is an immutable value, and means a set of Unicode strings. Knows nothing of bytes or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

MAX_CODE_POINT = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
"""Code points that no text holds."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text; ``""`` is the language of the empty string."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of these ranges of code points: inclusive, sorted, disjoint. No range: no string."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Concat:
    """One after the other; of nothing: the empty string."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternate:
    """Any of the options; of nothing: no string at all."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``low`` to ``high`` times, ``None`` for any number."""

    node: Node
    low: int
    high: int | None


Node: TypeAlias = Literal | Chars | Concat | Alternate | Repeat

EMPTY = Literal("")


def chars(*ranges: tuple[int, int]) -> Chars:
    """`Chars` of ranges in any order that may overlap; surrogates are left out."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    kept = []
    for low, high in merged:
        for first, last in ((low, min(high, SURROGATES[0] - 1)), (max(low, SURROGATES[1] + 1), high)):
            if first <= last:
                kept.append((first, last))
    return Chars(tuple(kept))


def any_of(characters: str) -> Chars:
    """One of these characters."""
    return chars(*((ord(character), ord(character)) for character in characters))


def complement(of: Chars) -> Chars:
    """Every character but these."""
    ranges, after = [], 0
    for low, high in of.ranges:
        if after < low:
            ranges.append((after, low - 1))
        after = high + 1
    if after <= MAX_CODE_POINT:
        ranges.append((after, MAX_CODE_POINT))
    return chars(*ranges)


def optional(node: Node) -> Repeat:
    """Once or not at all."""
    return Repeat(node, 0, 1)
