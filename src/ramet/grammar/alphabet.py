"""Character classes: which characters no part of a constraint tells apart.

An automaton over these needs few symbols, however large Unicode is. Invariant: every set of characters in a
constraint is a union of classes. Knows nothing of automata or bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ramet.grammar.limits import Budget
from ramet.grammar.nodes import MAX_CODE_POINT

Ranges: TypeAlias = tuple[tuple[int, int], ...]

OTHER = 0
"""The class of the characters that occur in no set; it is a symbol of no edge."""


@dataclass(frozen=True, slots=True, eq=False)
class Alphabet:
    """A partition of the code points.

    Attributes:
        starts: the first code points of the runs of one class, ascending, beginning with 0.
        classes: their classes, from 0 to ``num_classes - 1``.
        num_classes: how many there are, `OTHER` included.
    """

    starts: tuple[int, ...]
    classes: tuple[int, ...]
    num_classes: int

    def table(self, num_code_points: int) -> NDArray[np.int32]:
        """``[num_code_points]``: the class of each code point, `OTHER` beyond the last of Unicode."""
        starts = np.asarray(self.starts, np.int64).clip(max=num_code_points)
        return np.repeat(np.asarray(self.classes, np.int32), np.diff(starts, append=num_code_points))


def partition(sets: Sequence[Ranges], budget: Budget) -> tuple[Alphabet, list[tuple[int, ...]]]:
    """The coarsest partition for these sets, and the classes of each set, ascending.

    Classes are numbered by their first character.
    """
    toggles: dict[int, int] = {0: 0, MAX_CODE_POINT + 1: 0}
    for index, ranges in enumerate(sets):
        budget.spend(len(ranges) + 1)
        for low, high in ranges:
            toggles[low] = toggles.get(low, 0) ^ 1 << index
            toggles[high + 1] = toggles.get(high + 1, 0) ^ 1 << index
    members: list[list[int]] = [[] for _ in sets]
    class_of: dict[int, int] = {0: OTHER}  # by the sets a character is in, as bits
    cost = 1 + len(sets) // 2048  # of numbers with a bit for each set
    starts: list[int] = []
    classes: list[int] = []
    signature = 0
    for start in sorted(toggles):
        signature ^= toggles[start]
        known = class_of.get(signature)
        if known is None:
            known = class_of[signature] = len(class_of)
            rest = signature
            while rest:
                lowest = rest & -rest
                members[lowest.bit_length() - 1].append(known)
                rest ^= lowest
                budget.spend(cost)
        if not classes or classes[-1] != known:
            starts.append(start)
            classes.append(known)
    return Alphabet(tuple(starts), tuple(classes), len(class_of)), [tuple(of_set) for of_set in members]
