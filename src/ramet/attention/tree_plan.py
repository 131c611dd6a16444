"""How a step's attention is cut into items for a GPU: blocks of rows times the segments they read.

Blocks have two sizes. A *wide* one is a tile of many rows: for segments that a good part of its rows read,
such as a prompt that is computed or a prefix that branches share. A *narrow* one has as many rows as the
smallest product of the tensor cores has room for: for what few rows read, such as the context that a branch
has for itself. What a block reads is cut further, so that there is work for all of the device.

Invariant: every (row, chunk of its context) pair is in exactly one item, an item lists its segments in order
of position, and the items of a block are neighbours. Knows nothing of devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ramet.model_io import CHUNK_TOKENS, Int32Array, Segments

WIDE_SHARE = 4
"""A segment belongs to the wide items of a tile if at least one in so many of its rows reads it."""
MOST_ROUNDS = 6  # of items at once, before the last ones are no longer worth waiting for
ITEM_COST = 2  # what it takes to begin an item, and to merge what it leaves: so many chunks

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the two sizes.

    Args:
        rows: of a block.
        at_once: how many items the device computes at a time.
    """

    rows: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Items:
    """Blocks of rows and their segments."""

    block: Index  # [num_items] ascending: the rows from ``block * rows`` on
    offsets: Index  # [num_items + 1] into segments
    segments: Index  # indices of segments, by item and in order of position
    ranges: Index  # [num_blocks + 1] which items each block has; blocks behind the last of these have none

    def __len__(self) -> int:
        return len(self.block)

    @property
    def order(self) -> Index:
        """The items, those with most to read first."""
        return np.argsort(self.offsets[:-1] - self.offsets[1:], kind="stable")


NO_ITEMS = Items(*(np.zeros(count, dtype=np.intp) for count in (0, 1, 0, 1)))


@dataclass(frozen=True, slots=True)
class TreePlan:
    """All items of a step."""

    wide: Items
    narrow: Items


def plan_tree(
    segments: Segments, num_rows: int, *, wide: Kind | None, narrow: Kind, span_chunks: int | None
) -> TreePlan:
    """Cut a step's attention into items.

    Args:
        segments: of the step.
        num_rows: of the step; rows that no segment has read nothing.
        wide: None if there are to be no wide items, so that a row's own context alone says how it is cut.
            Else its blocks consist of whole narrow ones, or are smaller and there are none either.
        narrow: the other size.
        span_chunks: an item covers so many chunks of positions, far into a context more (`_fixed_span`).
            None cuts what a block reads into even pieces, as large as keeps the device busy to the end.
    """
    begin, end = segments.row_begin.astype(np.intp), segments.row_end.astype(np.intp)
    index = np.arange(len(begin))
    span = None if span_chunks is None else _fixed_span(segments.first_position // CHUNK_TOKENS, span_chunks)
    is_wide = np.zeros(0, dtype=bool)
    wide_index = wide_block = index[:0]
    if wide is not None and wide.rows > narrow.rows and int((end - begin).max(initial=0)) > narrow.rows:
        # A narrow block of two wide ones would read a segment for rows that read it in a wide one, too
        assert wide.rows % narrow.rows == 0, (wide, narrow)
        index, block, begin, end = _cut(index, begin, end, wide.rows)
        in_block = np.minimum(wide.rows, num_rows - block * wide.rows)
        is_wide = ((end - begin) * WIDE_SHARE >= in_block) & (end - begin > narrow.rows)
        wide_index, wide_block = index[is_wide], block[is_wide]
        index, begin, end = index[~is_wide], begin[~is_wide], end[~is_wide]
    index, block, _, _ = _cut(index, begin, end, narrow.rows)
    return TreePlan(
        wide=NO_ITEMS if wide is None else _items(wide_index, wide_block, span, wide, num_rows),
        narrow=_items(index, block, span, narrow, num_rows),
    )


def _cut(index: Index, begin: Index, end: Index, size: int) -> tuple[Index, Index, Index, Index]:
    """Ranges of rows cut at multiples of ``size``: of each piece its index, block, first row and end."""
    first = begin // size
    counts = (end - 1) // size - first + 1
    total = int(counts.sum())
    if total == len(index):  # as in most steps that decode
        return index, first, begin, end
    starts = np.cumsum(counts) - counts
    block = np.arange(total) - np.repeat(starts - first, counts)
    return (
        np.repeat(index, counts),
        block,
        np.maximum(np.repeat(begin, counts), block * size),
        np.minimum(np.repeat(end, counts), (block + 1) * size),
    )


def _fixed_span(chunk: Int32Array, span_chunks: int) -> Int32Array:
    """The span that a chunk belongs to, by its number: eight of ``span_chunks``, then four each of twice the
    length, and so on. So the longest context is cut into few."""
    doublings = np.frexp(np.maximum(chunk // (4 * span_chunks), 1))[1] - 1  # the exponents of powers of two
    return (4 * doublings + chunk // (span_chunks << doublings)).astype(np.int32)


def _items(index: Index, block: Index, span: Int32Array | None, kind: Kind, num_rows: int) -> Items:
    """Items of pieces that stand in order of position: by block, then by span or cut into even parts."""
    if not len(index):
        return NO_ITEMS
    num_blocks = -(-num_rows // kind.rows)
    # Sorting numbers of 16 bits takes time in proportion to them
    by_block = np.argsort(block.astype(np.uint16) if num_blocks < 1 << 16 else block, kind="stable")
    index = index[by_block]
    reads = np.bincount(block, minlength=num_blocks)
    ends = np.cumsum(reads)
    if span is None:
        length = _even_length(reads, kind.at_once)
        items = -(-reads // length)
        owner = np.repeat(np.arange(num_blocks), items)
        ranges = _offsets(items)
        number = np.arange(len(owner)) - ranges[owner]
        starts = (ends - reads)[owner] + number * reads[owner] // items[owner]
    else:
        block, spans = block[by_block], span[index]
        is_first = np.ones(len(index), dtype=bool)
        is_first[1:] = (block[1:] != block[:-1]) | (spans[1:] != spans[:-1])
        starts = np.flatnonzero(is_first)
        owner = block[starts]
        ranges = _offsets(np.bincount(owner, minlength=num_blocks))
    return Items(owner, np.append(starts, len(index)), index, ranges)


def _even_length(reads: Index, at_once: int) -> int:
    """How many reads an item may have, so that items computed ``at_once`` at a time are done soonest."""
    longest, total = int(reads.max(initial=0)), int(reads.sum())
    rounds = np.arange(1, MOST_ROUNDS + 1)
    # As many items as there are places, were it not for a shorter last one of every block
    places = rounds * at_once - np.count_nonzero(reads)
    lengths = np.clip(-(-total // np.maximum(places, 1)), 1, max(longest, 1))
    items = -(-reads[:, None] // lengths)
    largest = (-(-reads[:, None] // np.maximum(items, 1))).max(axis=0, initial=0)
    cost = -(-items.sum(axis=0) // at_once) * (largest + ITEM_COST)
    return int(lengths[np.argmin(cost)])


def _offsets(counts: Index) -> Index:
    offsets = np.zeros(len(counts) + 1, dtype=np.intp)
    np.cumsum(counts, out=offsets[1:])
    return offsets
