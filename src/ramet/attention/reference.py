"""Attention in plain torch: the definition that every other kernel is tested against.

A *work item* is a tile of `ROW_TILE` neighbouring rows times one segment of CHUNK_TOKENS keys. Items are
computed in blocks by batched matrix products of one fixed shape; rows of a tile outside the segment, and
keys beyond its end, are computed and thrown away. Each (row, segment) pair yields a partial result
``(peak, total, sum of weighted values)``; the partials of a row are merged in order of position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ramet.attention.base import ForwardBatch
from ramet.model_io import CHUNK_TOKENS, Segments

ROW_TILE = 4  # a tile times its query heads is one operand; fewer than 4 rows would take a path of its own
BLOCK_ITEMS = 64  # bounds the copies of keys and values that one batched product reads


@dataclass(frozen=True, slots=True)
class MergeRun:
    """Partials ``begin .. end - 1`` of a block: all of one chunk of positions, so every row once."""

    begin: int
    end: int
    rows: torch.Tensor | slice  # the rows they belong to: [end - begin] int64, or a slice


@dataclass(frozen=True, slots=True)
class Block:
    """Work items that are computed together, in order of position."""

    tiles: torch.Tensor  # [num_items] int64
    slots: torch.Tensor  # [num_items * CHUNK_TOKENS] int64
    masked: torch.Tensor | None  # [num_items, ROW_TILE, 1, CHUNK_TOKENS] bool, True = not attended to
    partials: torch.Tensor  # [num_partials] int64: item * ROW_TILE + row in tile, for rows of the segment
    runs: tuple[MergeRun, ...]


class ReferenceAttention:
    """`AttentionBackend` in torch, on any device. Arithmetic is float32 whatever the pool holds."""

    def plan(self, forward: ForwardBatch) -> ForwardBatch:
        positions = forward.positions.cpu().numpy()
        blocks = tuple(_plan_blocks(forward.segments, positions, forward.positions.device))
        return replace(forward, plan=blocks)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, forward: ForwardBatch
    ) -> torch.Tensor:
        blocks = forward.plan
        assert isinstance(blocks, tuple), f"attention before plan(): {type(blocks).__name__}"
        num_rows, num_heads, head_dim = queries.shape
        num_kv_heads = keys.shape[1]
        tiles = _query_tiles(queries, num_kv_heads)
        merged = _Merged.empty(num_rows, num_heads, head_dim, queries.device)
        for block in blocks:
            merged.add(block, _attend(block, tiles, keys, values))
        return (merged.weighted / merged.total).to(queries.dtype).reshape(num_rows, num_heads * head_dim)


def _query_tiles(queries: torch.Tensor, num_kv_heads: int) -> torch.Tensor:
    """Scaled queries as ``[num_kv_heads, num_tiles, ROW_TILE * group, head_dim]`` float32."""
    num_rows, num_heads, head_dim = queries.shape
    group = num_heads // num_kv_heads
    num_tiles = -(-num_rows // ROW_TILE)
    scaled = queries.new_zeros((num_tiles * ROW_TILE, num_heads, head_dim), dtype=torch.float32)
    scaled[:num_rows] = queries
    scaled.mul_(head_dim**-0.5)
    split = scaled.view(num_tiles, ROW_TILE, num_kv_heads, group, head_dim)
    return split.permute(2, 0, 1, 3, 4).reshape(num_kv_heads, num_tiles, ROW_TILE * group, head_dim)


@dataclass(frozen=True, slots=True)
class _Partials:
    """Attention of rows to one chunk each, not normalised."""

    weighted: torch.Tensor  # [num_partials, num_heads, head_dim] sum of exp(score - peak) * value
    total: torch.Tensor  # [num_partials, num_heads, 1] sum of exp(score - peak)
    peak: torch.Tensor  # [num_partials, num_heads, 1] largest score


def _attend(block: Block, tiles: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> _Partials:
    num_kv_heads, _, tile_queries, head_dim = tiles.shape
    num_items = block.tiles.shape[0]
    queries = tiles.index_select(1, block.tiles)
    shape = (num_items, CHUNK_TOKENS, num_kv_heads, head_dim)
    chunk_keys = keys.index_select(0, block.slots).view(shape).float()
    chunk_values = values.index_select(0, block.slots).view(shape).float()

    scores = queries.new_empty(num_kv_heads, num_items, tile_queries, CHUNK_TOKENS)
    for head in range(num_kv_heads):
        torch.bmm(queries[head], chunk_keys[:, :, head].transpose(1, 2), out=scores[head])
    if block.masked is not None:
        by_row = scores.view(num_kv_heads, num_items, ROW_TILE, -1, CHUNK_TOKENS)
        by_row.masked_fill_(block.masked, -torch.inf)
    peak = scores.amax(-1, keepdim=True)
    weights = scores.sub_(peak).exp_()
    total = weights.sum(-1, keepdim=True)
    weighted = torch.empty_like(queries)
    for head in range(num_kv_heads):
        torch.bmm(weights[head], chunk_values[:, :, head], out=weighted[head])

    def of_rows(of_tiles: torch.Tensor) -> torch.Tensor:
        width = of_tiles.shape[-1]
        by_row = of_tiles.view(num_kv_heads, num_items, ROW_TILE, -1, width).permute(1, 2, 0, 3, 4)
        return by_row.reshape(num_items * ROW_TILE, -1, width).index_select(0, block.partials)

    return _Partials(of_rows(weighted), of_rows(total), of_rows(peak))


@dataclass(frozen=True, slots=True)
class _Merged:
    """The running result of every row; shapes as in `_Partials`, with a row for each partial."""

    weighted: torch.Tensor
    total: torch.Tensor
    peak: torch.Tensor

    @classmethod
    def empty(cls, num_rows: int, num_heads: int, head_dim: int, device: torch.device) -> _Merged:
        return cls(
            weighted=torch.zeros(num_rows, num_heads, head_dim, device=device),
            total=torch.zeros(num_rows, num_heads, 1, device=device),
            peak=torch.full((num_rows, num_heads, 1), -torch.inf, device=device),
        )

    def add(self, block: Block, partials: _Partials) -> None:
        """Merge a block's partials by log-sum-exp, chunk by chunk."""
        for run in block.runs:
            part = slice(run.begin, run.end)
            old_peak = self.peak[run.rows]
            peak = torch.maximum(old_peak, partials.peak[part])
            keep = torch.exp(old_peak - peak)
            gain = torch.exp(partials.peak[part] - peak)
            self.weighted[run.rows] = self.weighted[run.rows] * keep + partials.weighted[part] * gain
            self.total[run.rows] = self.total[run.rows] * keep + partials.total[part] * gain
            self.peak[run.rows] = peak


# ------------------------------------------------------------------------------------------------ planning


def _plan_blocks(segments: Segments, positions: NDArray[np.int64], device: torch.device) -> Iterator[Block]:
    begin, end = segments.row_begin.astype(np.int64), segments.row_end.astype(np.int64)
    lengths = np.diff(segments.slot_offsets).astype(np.int64)
    first_tile = begin // ROW_TILE
    tiles_of_segment = -(-end // ROW_TILE) - first_tile
    item_segment = np.repeat(np.arange(len(begin)), tiles_of_segment)
    first_item = np.cumsum(tiles_of_segment) - tiles_of_segment
    item_tile = first_tile[item_segment] + np.arange(len(item_segment)) - first_item[item_segment]

    # Keys beyond a segment's end are read from its first slot: any key that every row of the segment may see
    offsets = np.arange(CHUNK_TOKENS)
    index = segments.slot_offsets[:-1, None] + np.where(offsets < lengths[:, None], offsets, 0)
    segment_slots = segments.slots.astype(np.int64)[index]  # [num_segments, CHUNK_TOKENS]

    padded_positions = np.zeros(-(-len(positions) // ROW_TILE) * ROW_TILE, dtype=np.int64)
    padded_positions[: len(positions)] = positions

    for start in range(0, len(item_segment), BLOCK_ITEMS):
        segment, tile = item_segment[start : start + BLOCK_ITEMS], item_tile[start : start + BLOCK_ITEMS]
        rows = tile[:, None] * ROW_TILE + np.arange(ROW_TILE)  # [num_items, ROW_TILE]
        inside = (rows >= begin[segment, None]) & (rows < end[segment, None])
        last_key = np.minimum(
            padded_positions[rows] - segments.first_position[segment, None], lengths[segment, None] - 1
        )
        # Rows outside the segment see every key: what they yield is dropped, and must not cost a mask
        masked = offsets > np.where(inside, last_key, CHUNK_TOKENS)[:, :, None]
        partials = np.flatnonzero(inside)
        chunks = np.broadcast_to(segments.first_position[segment, None], rows.shape)[inside]
        yield Block(
            tiles=torch.from_numpy(tile).to(device),
            slots=torch.from_numpy(segment_slots[segment].reshape(-1)).to(device),
            masked=torch.from_numpy(masked[:, :, None]).to(device) if masked.any() else None,
            partials=torch.from_numpy(partials).to(device),
            runs=tuple(_merge_runs(rows[inside], chunks, device)),
        )


def _merge_runs(
    rows: NDArray[np.int64], chunks: NDArray[np.int32], device: torch.device
) -> Iterator[MergeRun]:
    edges = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(chunks)]
    for begin, end in pairwise(edges):
        run = rows[begin:end]
        first, count = int(run[0]), end - begin
        if int(run[-1]) - first == count - 1 and bool((np.diff(run) == 1).all()):
            yield MergeRun(begin, end, slice(first, first + count))
        else:
            yield MergeRun(begin, end, torch.from_numpy(run).to(device))
