"""Tree attention on a GPU: work items against their segments, then partial results into rows.

An *item* is a block of neighbouring rows and a list of segments (`ramet.attention.tree_plan`). One program
computes one item for one KV head: the query heads of the group are further rows of the tile, so that keys and
values are read once for all of them and multiplied by the tensor cores. It keeps a running softmax (arXiv
2205.14135) and leaves a partial result per row; a second kernel merges the partials of each row by
log-sum-exp, in order of position (arXiv 2311.01282 splits a context in the same way).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ramet.model_io import CHUNK_TOKENS

LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    queries,  # [num_rows, num_heads, head_dim]
    keys,  # [num_slots, num_kv_heads, head_dim]
    values,
    positions,  # [num_rows]
    row_begin,  # of segments: [num_segments]
    row_end,
    first_position,
    slot_offsets,  # [num_segments + 1]
    slots,
    item_row,  # [num_items] first row
    item_rows,  # [num_items] how many
    item_offsets,  # [num_items + 1] into item_segments
    item_segments,
    item_partial,  # [num_items] partial of the first row
    weighted,  # out: [num_partials, num_heads, BLOCK_D] float32
    peaks,  # out: [num_partials, num_heads] float32, in powers of two
    totals,  # out: the same
    scale,  # of scores: log2(e) / sqrt(head_dim)
    query_row_stride,
    slot_stride,
    value_slot_stride,
    num_heads,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    item = tl.program_id(0)
    kv_head = tl.program_id(1)
    first_row = tl.load(item_row + item)
    num_rows = tl.load(item_rows + item)
    of_tile = tl.arange(0, BLOCK_M)
    row = first_row + of_tile // GROUP
    head = kv_head * GROUP + of_tile % GROUP
    in_tile = of_tile // GROUP < num_rows
    d = tl.arange(0, BLOCK_D)
    in_head = d < HEAD_DIM
    n = tl.arange(0, CHUNK)

    query = tl.load(
        queries + row[:, None].to(tl.int64) * query_row_stride + (head * HEAD_DIM)[:, None] + d[None, :],
        mask=in_tile[:, None] & in_head[None, :],
        other=0.0,
    )
    position = tl.load(positions + row, mask=in_tile, other=-1)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    begin = tl.load(item_offsets + item)
    end = tl.load(item_offsets + item + 1)
    for index in range(begin, end):
        segment = tl.load(item_segments + index)
        first_slot = tl.load(slot_offsets + segment)
        length = tl.load(slot_offsets + segment + 1) - first_slot
        first = tl.load(first_position + segment)
        reads = (row >= tl.load(row_begin + segment)) & (row < tl.load(row_end + segment)) & in_tile
        in_chunk = n < length
        slot = tl.load(slots + first_slot + n, mask=in_chunk, other=0).to(tl.int64)
        mask = in_chunk[:, None] & in_head[None, :]
        at = (kv_head * HEAD_DIM + d)[None, :]
        key = tl.load(keys + slot[:, None] * slot_stride + at, mask=mask, other=0.0).to(query.dtype)
        value = tl.load(values + slot[:, None] * value_slot_stride + at, mask=mask, other=0.0).to(query.dtype)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        visible = reads[:, None] & in_chunk[None, :] & (first + n[None, :] <= position[:, None])
        score = tl.where(visible, score, float("-inf"))
        higher = tl.maximum(peak, tl.max(score, 1))
        # A row that has seen nothing yet has no peak to subtract
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(score - reference[:, None])
        keep = tl.exp2(peak - reference)
        total = total * keep + tl.sum(weight, 1)
        sums = tl.dot(weight.to(query.dtype), value, sums * keep[:, None], input_precision=PRECISION)
        peak = higher

    partial = tl.load(item_partial + item) + of_tile // GROUP
    place = partial.to(tl.int64) * num_heads + head
    tl.store(weighted + place[:, None] * BLOCK_D + d[None, :], sums, mask=in_tile[:, None])
    tl.store(peaks + place, peak, mask=in_tile)
    tl.store(totals + place, total, mask=in_tile)


@triton.jit
def _merge(
    weighted,  # [num_partials, num_heads, BLOCK_D] float32
    peaks,  # [num_partials, num_heads] float32
    totals,
    row_offsets,  # [num_rows + 1] into row_partials
    row_partials,  # partials of each row, in order of position
    out,  # [num_rows, num_heads, HEAD_DIM]
    num_heads,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    peak = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    sums = tl.zeros([BLOCK_D], tl.float32)
    for index in range(tl.load(row_offsets + row), tl.load(row_offsets + row + 1)):
        place = tl.load(row_partials + index).to(tl.int64) * num_heads + head
        other = tl.load(peaks + place)
        higher = tl.maximum(peak, other)
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        keep, gain = tl.exp2(peak - reference), tl.exp2(other - reference)
        total = total * keep + tl.load(totals + place) * gain
        sums = sums * keep + tl.load(weighted + place * BLOCK_D + d) * gain
        peak = higher
    place = row.to(tl.int64) * num_heads + head
    result = (sums / total).to(out.dtype.element_ty)
    tl.store(out + place * HEAD_DIM + d, result, mask=d < HEAD_DIM)


class Partials:
    """Room for the partial results of a step; made once per step, used by every layer.

    Args:
        num_partials: of the plan.
        num_heads, head_dim: of the queries.
    """

    def __init__(self, num_partials: int, num_heads: int, head_dim: int, device: torch.device) -> None:
        self.block_d = max(triton.next_power_of_2(head_dim), 16)
        shape = (num_partials, num_heads)
        self.weighted = torch.empty((*shape, self.block_d), dtype=torch.float32, device=device)
        self.peaks = torch.empty(shape, dtype=torch.float32, device=device)
        self.totals = torch.empty(shape, dtype=torch.float32, device=device)


def launch_options(tile: int, block_d: int, itemsize: int) -> dict[str, int]:
    """How many warps share a tile, and how many chunks the shared memory holds at a time."""
    return {
        "num_warps": 8 if tile * block_d >= 128 * 128 else 4,
        "num_stages": 2 if block_d * itemsize <= 512 else 1,
    }


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    segments: tuple[torch.Tensor, ...],
    items: tuple[torch.Tensor, ...],
    partials: Partials,
    *,
    tile: int,
) -> None:
    """Partial results of all items.

    Args:
        queries: ``[num_rows, num_heads, head_dim]``, the last two dimensions contiguous.
        keys, values: ``[num_slots, num_kv_heads, head_dim]``, likewise.
        positions: ``[num_rows]`` int32.
        segments: the arrays of `ramet.model_io.Segments` in their order, int32.
        items: the arrays of `ramet.attention.tree_plan.Items` in their order, int32.
        partials: written to.
        tile: rows times heads of a group that a program has room for; a power of two, at least 16.
    """
    num_heads, head_dim = queries.shape[1:]
    num_kv_heads = keys.shape[1]
    num_items = items[0].shape[0]
    if num_items == 0:
        return
    _attend[(num_items, num_kv_heads)](
        queries,
        keys,
        values,
        positions,
        *segments,
        *items,
        partials.weighted,
        partials.peaks,
        partials.totals,
        LOG2_E / head_dim**0.5,
        queries.stride(0),
        keys.stride(0),
        values.stride(0),
        num_heads,
        GROUP=num_heads // num_kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=partials.block_d,
        BLOCK_M=tile,
        CHUNK=CHUNK_TOKENS,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        **launch_options(tile, partials.block_d, queries.itemsize),
    )


def merge(
    partials: Partials, row_offsets: torch.Tensor, row_partials: torch.Tensor, out: torch.Tensor
) -> None:
    """The partial results of each row into ``out`` ``[num_rows, num_heads, head_dim]``, contiguous."""
    num_rows, num_heads, head_dim = out.shape
    _merge[(num_rows, num_heads)](
        partials.weighted,
        partials.peaks,
        partials.totals,
        row_offsets,
        row_partials,
        out,
        num_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=partials.block_d,
    )
