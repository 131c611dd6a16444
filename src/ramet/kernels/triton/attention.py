"""Tree attention on a GPU: work items against what they read, then partial results into rows.

An *item* is a block of neighbouring rows and a list of segments (`ramet.attention.tree_plan`). A program
computes an item for one KV head: the query heads of the group are further rows of the tile, so that keys and
values are read once for all of them and multiplied by the tensor cores. It keeps a running softmax (arXiv
2205.14135) and leaves a partial result per row; a second kernel merges the partials of each row by
log-sum-exp, in order of position (arXiv 2311.01282 splits a context in the same way).

As many programs are launched as the device runs at once, and share the items. How many items there are, and
where their arrays begin, is read from the device's memory: a launch that was recorded computes any step of as
many rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from ramet.model_io import CHUNK_TOKENS

LOG2_E = 1.4426950408889634
NARROW_TILE = 16  # the least that a product of the tensor cores takes
MERGED_AT_ONCE = 16  # partials of a row
WARP_THREADS = 32
REGISTERS = 65536  # of a multiprocessor

# Where the head of a plan says what. How many items there are:
NUM_WIDE = tl.constexpr(0)
NUM_ITEMS = tl.constexpr(1)  # the wide ones, which come first, among them
# and where in the plan an array begins:
ORDER = tl.constexpr(2)  # [num_items] items in the order of their work, the wide ones first
BLOCKS = tl.constexpr(
    3
)  # [num_items] number of the block of rows, which is as large as items of the kind are
READ_OFFSETS = tl.constexpr(4)  # [num_items + 1] into reads
READS = tl.constexpr(5)  # [num_reads, READ_FIELDS]
WIDE_RANGES = tl.constexpr(6)  # [num_blocks + 1] the items of each wide block
NARROW_RANGES = tl.constexpr(7)  # the same of narrow ones
SLOTS = tl.constexpr(8)  # [total keys]
HEAD_FIELDS = 9
# What an item reads: where its slots begin in SLOTS, how many, the first one's position, which rows see it
READ_SLOTS = tl.constexpr(0)
READ_LENGTH = tl.constexpr(1)
READ_POSITION = tl.constexpr(2)
READ_ROW_BEGIN = tl.constexpr(3)
READ_ROW_END = tl.constexpr(4)
READ_FIELDS = tl.constexpr(5)


@triton.jit
def _slots_of(read, slots, n):
    """The slots of a read, and which of so many there are."""
    there = n < tl.load(read + READ_LENGTH)
    return there, tl.load(slots + tl.load(read + READ_SLOTS) + n, mask=there, other=0)


@triton.jit(do_not_specialize=["num_rows"])
def _attend(
    queries,  # [num_rows, num_heads, head_dim]
    keys,  # [num_slots, num_kv_heads, head_dim]
    values,
    positions,  # [num_rows]
    plan,
    weighted,  # out: [num_partials, num_heads, BLOCK_D] float32
    peaks,  # out: [num_partials, num_heads] float32, in powers of two
    totals,  # out: the same
    scale,  # of scores: log2(e) / sqrt(head_dim)
    num_rows,
    query_row_stride,
    slot_stride,
    value_slot_stride,
    num_heads,
    num_kv_heads,
    IS_WIDE: tl.constexpr,
    WIDE_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    num_wide = tl.load(plan + NUM_WIDE)
    if IS_WIDE:
        first_item = 0
        num_items = num_wide
    else:
        first_item = num_wide
        num_items = tl.load(plan + NUM_ITEMS) - num_wide
    order = plan + tl.load(plan + ORDER) + first_item
    blocks = plan + tl.load(plan + BLOCKS)
    read_offsets = plan + tl.load(plan + READ_OFFSETS)
    reads = plan + tl.load(plan + READS)
    slots = plan + tl.load(plan + SLOTS)
    rows: tl.constexpr = WIDE_ROWS if IS_WIDE else BLOCK_M // GROUP
    of_tile = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    in_head = d < HEAD_DIM
    n = tl.arange(0, CHUNK)

    for work in range(tl.program_id(0), num_items * num_kv_heads, tl.num_programs(0)):
        item = tl.load(order + work // num_kv_heads)
        kv_head = work % num_kv_heads
        row = tl.load(blocks + item) * rows + of_tile // GROUP
        head = kv_head * GROUP + of_tile % GROUP
        in_tile = (of_tile < rows * GROUP) & (row < num_rows)
        query = tl.load(
            queries + row[:, None].to(tl.int64) * query_row_stride + (head * HEAD_DIM)[:, None] + d[None, :],
            mask=in_tile[:, None] & in_head[None, :],
            other=0.0,
        )
        position = tl.load(positions + row, mask=in_tile, other=-1)
        peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        at = (kv_head * HEAD_DIM + d)[None, :]
        begin = tl.load(read_offsets + item)
        end = tl.load(read_offsets + item + 1)
        # Slots are asked for a round before their keys are, so that keys can be fetched ahead
        in_chunk, slot = _slots_of(reads + begin * READ_FIELDS, slots, n)
        for index in range(begin, end):
            read = reads + index * READ_FIELDS
            place = slot[:, None].to(tl.int64)
            mask = in_chunk[:, None] & in_head[None, :]
            key = tl.load(keys + place * slot_stride + at, mask=mask, other=0.0).to(query.dtype)
            value = tl.load(values + place * value_slot_stride + at, mask=mask, other=0.0).to(query.dtype)
            score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            reader = (row >= tl.load(read + READ_ROW_BEGIN)) & (row < tl.load(read + READ_ROW_END)) & in_tile
            seen = tl.load(read + READ_POSITION) + n[None, :] <= position[:, None]
            score = tl.where(reader[:, None] & in_chunk[None, :] & seen, score, float("-inf"))
            higher = tl.maximum(peak, tl.max(score, 1))
            # A row that has seen nothing yet has no peak to subtract
            reference = tl.where(higher == float("-inf"), 0.0, higher)
            weight = tl.exp2(score - reference[:, None])
            keep = tl.exp2(peak - reference)
            total = total * keep + tl.sum(weight, 1)
            sums = tl.dot(weight.to(query.dtype), value, sums * keep[:, None], input_precision=PRECISION)
            peak = higher
            in_chunk, slot = _slots_of(reads + tl.minimum(index + 1, end - 1) * READ_FIELDS, slots, n)

        partial = first_item * WIDE_ROWS + (item - first_item) * rows + of_tile // GROUP
        into = partial.to(tl.int64) * num_heads + head
        tl.store(weighted + into[:, None] * BLOCK_D + d[None, :], sums, mask=in_tile[:, None])
        tl.store(peaks + into, peak, mask=in_tile)
        tl.store(totals + into, total, mask=in_tile)


@triton.jit
def _merge(
    weighted,  # [num_partials, num_heads, BLOCK_D] float32
    peaks,  # [num_partials, num_heads] float32
    totals,
    plan,
    out,  # [num_rows, num_heads, HEAD_DIM]
    num_heads,
    WIDE_ROWS: tl.constexpr,
    NARROW_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    items = plan + tl.load(plan + NARROW_RANGES) + row // NARROW_ROWS
    begin = tl.load(items)
    count = tl.load(items + 1) - begin
    # The partials of narrow items stand behind those of wide ones, which are further apart
    partial = begin * NARROW_ROWS + row % NARROW_ROWS + tl.load(plan + NUM_WIDE) * (WIDE_ROWS - NARROW_ROWS)
    num_wide = 0
    wide_partial = 0
    if WIDE_ROWS > 0:
        items = plan + tl.load(plan + WIDE_RANGES) + row // WIDE_ROWS
        begin = tl.load(items)
        num_wide = tl.load(items + 1) - begin
        wide_partial = begin * WIDE_ROWS + row % WIDE_ROWS

    d = tl.arange(0, BLOCK_D)
    peak = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    sums = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, num_wide + count, AT_ONCE):
        index = first + tl.arange(0, AT_ONCE)
        there = index < num_wide + count
        of_narrow = partial + (index - num_wide) * NARROW_ROWS
        place = tl.where(index < num_wide, wide_partial + index * WIDE_ROWS, of_narrow)
        place = place.to(tl.int64) * num_heads + head
        others = tl.load(peaks + place, mask=there, other=float("-inf"))
        higher = tl.maximum(peak, tl.max(others, 0))
        reference = tl.where(higher == float("-inf"), 0.0, higher)
        keep, gains = tl.exp2(peak - reference), tl.exp2(others - reference)
        total = total * keep + tl.sum(tl.load(totals + place, mask=there, other=0.0) * gains, 0)
        found = tl.load(weighted + place[:, None] * BLOCK_D + d[None, :], mask=there[:, None], other=0.0)
        sums = sums * keep + tl.sum(found * gains[:, None], 0)
        peak = higher
    # A row that reads nothing only fills up a batch
    result = (sums / tl.where(total == 0.0, 1.0, total)).to(out.dtype.element_ty)
    tl.store(out + (row.to(tl.int64) * num_heads + head) * HEAD_DIM + d, result, mask=d < HEAD_DIM)


class Partials:
    """Room for the partial results of a step, used by every layer.

    Args:
        num_partials: of the plan, or more.
        num_heads, head_dim: of the queries.
    """

    def __init__(self, num_partials: int, num_heads: int, head_dim: int, device: torch.device) -> None:
        self.block_d = self.block_of(head_dim)
        shape = (num_partials, num_heads)
        self.weighted = torch.empty((*shape, self.block_d), dtype=torch.float32, device=device)
        self.peaks = torch.empty(shape, dtype=torch.float32, device=device)
        self.totals = torch.empty(shape, dtype=torch.float32, device=device)

    @staticmethod
    def block_of(head_dim: int) -> int:
        """What a head of so many dimensions has room for."""
        return int(max(triton.next_power_of_2(head_dim), 16))

    @property
    def num_partials(self) -> int:
        return len(self.peaks)


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel of one tile is launched."""

    options: dict[str, int]
    programs_per_multiprocessor: int  # that run there at once: its registers and shared memory suffice


def launch_of(tile: int, block_d: int, itemsize: int) -> Launch:
    """How many warps share a tile, how many chunks are fetched ahead, and how many programs run at once.

    Args:
        tile: rows times heads of a group.
        block_d: of `Partials`.
        itemsize: bytes of a number of the queries.
    """
    num_warps = 8 if tile * block_d >= 128 * 128 else 4
    options = {"num_warps": num_warps, "num_stages": 3 if block_d * itemsize <= 256 else 2}
    if itemsize > 2:
        return Launch(options, 1)
    if tile > NARROW_TILE:
        return Launch(options, 8 // num_warps)
    if block_d > 128:
        return Launch(options, 2)
    # Few rows read each chunk here, so memory is what is waited for: a third program, for a few registers
    registers = REGISTERS // (3 * num_warps * WARP_THREADS) // 8 * 8
    return Launch(options | {"maxnreg": registers}, 3)


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    plan: torch.Tensor,
    partials: Partials,
    *,
    tile: int,
    wide_rows: int,
    is_wide: bool,
    num_programs: int,
) -> None:
    """Partial results of the wide items of a plan, or of the narrow ones.

    Args:
        queries: ``[num_rows, num_heads, head_dim]``, the last two dimensions contiguous.
        keys, values: ``[num_slots, num_kv_heads, head_dim]``, likewise.
        positions: ``[num_rows]`` int32 or int64.
        plan: int32: a head of HEAD_FIELDS, and arrays.
        partials: written to.
        tile: rows times heads of a group that a program has room for; a power of two, at least 16.
        wide_rows: rows of a wide item; a narrow one has as many as its tile has room for.
        is_wide: which items.
        num_programs: that share the items.
    """
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[1]
    _attend[(num_programs,)](
        queries,
        keys,
        values,
        positions,
        plan,
        partials.weighted,
        partials.peaks,
        partials.totals,
        LOG2_E / head_dim**0.5,
        num_rows,
        queries.stride(0),
        keys.stride(0),
        values.stride(0),
        num_heads,
        num_kv_heads,
        IS_WIDE=is_wide,
        WIDE_ROWS=wide_rows,
        GROUP=num_heads // num_kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=partials.block_d,
        BLOCK_M=tile,
        CHUNK=CHUNK_TOKENS,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        **launch_of(tile, partials.block_d, queries.itemsize).options,
    )


def merge(
    partials: Partials, plan: torch.Tensor, out: torch.Tensor, *, wide_rows: int, narrow_rows: int
) -> None:
    """The partial results of each row into ``out`` ``[num_rows, num_heads, head_dim]``, contiguous.

    A row of which the plan has none becomes zeros. ``wide_rows`` is 0 if there are never wide items.
    """
    num_rows, num_heads, head_dim = out.shape
    _merge[(num_rows, num_heads)](
        partials.weighted,
        partials.peaks,
        partials.totals,
        plan,
        out,
        num_heads,
        WIDE_ROWS=wide_rows,
        NARROW_ROWS=narrow_rows,
        HEAD_DIM=head_dim,
        BLOCK_D=partials.block_d,
        AT_ONCE=MERGED_AT_ONCE,
    )
