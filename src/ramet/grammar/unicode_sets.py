"""The sets of characters that a regex can name: ``\\w``, ``\\d``, ``\\s``, categories; and letter case.

All of them are Python's own, of the Unicode version it was built with: sets by asking ``str`` and
`unicodedata`, case by the rules of ``re.IGNORECASE``. Computed at the first use. Knows nothing of patterns.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from functools import cache
from itertools import pairwise

import numpy as np

from ramet.grammar.nodes import MAX_CODE_POINT, Chars, chars, complement

BLOCK = 256


def letter_set(letter: str) -> Chars:
    """What ``\\d``, ``\\w``, ``\\s`` and their capitals match in a ``str``."""
    return complement(_escape_set(letter.lower())) if letter.isupper() else _escape_set(letter)


@cache
def _escape_set(letter: str) -> Chars:
    return chars(*((match.start(), match.end() - 1) for match in re.finditer(rf"\{letter}+", _all_text())))


@cache
def category(name: str) -> Chars | None:
    """The characters of a general category such as ``Lu``, or of a group of them such as ``L``; if it exists.

    Characters that Unicode has not assigned are in ``Cn``.
    """
    if not name or len(name) > 2:
        return None
    found = [ranges for known, ranges in _categories().items() if known.startswith(name)]
    return chars(*(pair for ranges in found for pair in ranges)) if found else None


def with_case_variants(characters: Chars) -> Chars:
    """These characters, and those that ``re.IGNORECASE`` takes for the same."""
    variants = _case_variants()
    cased = _cased()
    more: set[int] = set()
    for low, high in characters.ranges:
        for point in cased[bisect_left(cased, low) : bisect_left(cased, high + 1)]:
            more.update(variants[point])
    return chars(*characters.ranges, *((point, point) for point in more)) if more else characters


def _all_text() -> str:
    """Every code point in order, surrogates too, so that an index is a code point."""
    return np.arange(MAX_CODE_POINT + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _categories() -> dict[str, list[tuple[int, int]]]:
    """The ranges of each category."""
    names = "".join(map(unicodedata.category, _all_text()))  # two letters each
    codes = np.frombuffer(names.encode(), "<u2")
    starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    ranges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for start, end in pairwise(starts):
        ranges[names[2 * start : 2 * start + 2]].append((start, end - 1))
    return ranges


@cache
def _cased() -> list[int]:
    """The code points with case variants, ascending."""
    return sorted(_case_variants())


@cache
def _case_variants() -> dict[int, tuple[int, ...]]:
    """For each code point that has some: all that are the same to ``re.IGNORECASE``, itself included.

    Two characters are the same if their lower cases are, or the upper cases of these.
    """
    text = _all_text()
    same: defaultdict[str, set[int]] = defaultdict(set)
    for begin in range(0, len(text), BLOCK):
        block = text[begin : begin + BLOCK]
        if block.lower() == block.upper():
            continue  # no letters with case, as in most of Unicode
        for point, character in enumerate(block, begin):
            lower = character.lower()[0]  # one character where there are more: what `re` goes by
            same[lower.upper()].add(point)
    return {point: tuple(sorted(points)) for points in same.values() if len(points) > 1 for point in points}
