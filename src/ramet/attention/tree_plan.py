"""How a step's attention is cut into items for a GPU: blocks of rows times the segments they read.

Blocks have two sizes. A *wide* one is a tile of many rows: for segments that a good part of its rows read,
such as a prompt that is computed or a prefix that branches share. A *narrow* one has as many rows as the
smallest product of the tensor cores has room for: for what few rows read, such as the context that a branch
has for itself. Both are cut along the context, at fixed positions, so that there is work for all of it.

Invariant: every (row, chunk of its context) pair is in exactly one item, and an item lists its segments in
order of position. Knows nothing of devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ramet.model_io import CHUNK_TOKENS, Int32Array, Segments

WIDE_SHARE = 4
"""A segment belongs to the wide items of a tile if at least one in so many of its rows reads it."""


@dataclass(frozen=True, slots=True)
class Items:
    """Blocks of rows and their segments. The partial result of an item's ``i``-th row is ``partial + i``."""

    row: Int32Array  # [num_items] the first row
    num_rows: Int32Array  # [num_items]
    offsets: Int32Array  # [num_items + 1] into segments
    segments: Int32Array  # indices of segments, by item and in order of position
    partial: Int32Array  # [num_items]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class TreePlan:
    """All items of a step, and which partial results make a row."""

    wide: Items
    narrow: Items
    num_partials: int
    row_offsets: Int32Array  # [num_rows + 1] into row_partials
    row_partials: Int32Array  # partial results of each row, in order of position


def plan_tree(
    segments: Segments, num_rows: int, *, wide_rows: int, narrow_rows: int, span_chunks: int
) -> TreePlan:
    """Cut a step's attention into items.

    Args:
        segments: of the step; every row is in one at least.
        num_rows: of the step.
        wide_rows: rows of a wide item; 0: there are to be no wide ones, so that what a row becomes depends on
            its own context alone.
        narrow_rows: rows of a narrow item.
        span_chunks: an item covers at most so many chunks of positions.
    """
    index = np.arange(len(segments.row_begin), dtype=np.int64)
    begin, end = segments.row_begin.astype(np.int64), segments.row_end.astype(np.int64)
    is_wide = np.zeros(0, dtype=bool)
    wide = index[:0], index[:0]
    if wide_rows > narrow_rows:
        index, tile, begin, end = _cut(index, begin, end, wide_rows)
        in_tile = np.minimum(wide_rows, num_rows - tile * wide_rows)
        is_wide = ((end - begin) * WIDE_SHARE >= in_tile) & (end - begin > narrow_rows)
        wide = index[is_wide], tile[is_wide]
        index, begin, end = index[~is_wide], begin[~is_wide], end[~is_wide]
    index, block, _, _ = _cut(index, begin, end, narrow_rows)
    span = segments.first_position.astype(np.int64) // (span_chunks * CHUNK_TOKENS)
    wide_items, wide_spans = _group(*wide, span, max(wide_rows, 1), num_rows, first_partial=0)
    narrow_items, narrow_spans = _group(
        index, block, span, narrow_rows, num_rows, first_partial=int(wide_items.num_rows.sum())
    )

    rows = np.concatenate([_rows_of(wide_items), _rows_of(narrow_items)])
    spans = np.concatenate(
        [np.repeat(wide_spans, wide_items.num_rows), np.repeat(narrow_spans, narrow_items.num_rows)]
    )
    by_row = np.lexsort((spans, rows))
    offsets = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=offsets[1:])
    return TreePlan(wide_items, narrow_items, len(rows), offsets.astype(np.int32), by_row.astype(np.int32))


def _cut(
    index: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ranges of rows cut at multiples of ``size``: of each piece its index, block, first row and end."""
    first = begin // size
    counts = -(-end // size) - first
    starts = np.cumsum(counts) - counts
    block = np.arange(int(counts.sum())) - np.repeat(starts - first, counts)
    return (
        np.repeat(index, counts),
        block,
        np.maximum(np.repeat(begin, counts), block * size),
        np.minimum(np.repeat(end, counts), (block + 1) * size),
    )


def _group(
    index: NDArray[np.int64],
    block: NDArray[np.int64],
    span: NDArray[np.int64],
    size: int,
    num_rows: int,
    *,
    first_partial: int,
) -> tuple[Items, NDArray[np.int64]]:
    """Items of the pieces that have a block and a span of positions in common, and the spans of the items."""
    order = np.lexsort((index, block))  # segments stand in order of position
    index, block, span = index[order], block[order], span[index[order]]
    is_first = np.ones(len(index), dtype=bool)
    is_first[1:] = (block[1:] != block[:-1]) | (span[1:] != span[:-1])
    starts = np.flatnonzero(is_first)
    row = block[starts] * size
    counts = np.minimum(size, num_rows - row)
    items = Items(
        row=row.astype(np.int32),
        num_rows=counts.astype(np.int32),
        offsets=np.append(starts, len(index)).astype(np.int32),
        segments=index.astype(np.int32),
        partial=(first_partial + np.cumsum(counts) - counts).astype(np.int32),
    )
    return items, span[starts]


def _rows_of(items: Items) -> NDArray[np.int64]:
    """The row of each partial result."""
    first_partial = int(items.partial[0]) if len(items) else 0
    inside = np.arange(int(items.num_rows.sum())) - np.repeat(items.partial - first_partial, items.num_rows)
    return np.repeat(items.row.astype(np.int64), items.num_rows) + inside
