"""Attention on a GPU: the plan of `ramet.attention.tree_plan`, computed by Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from ramet.attention.base import ForwardBatch, host_array
from ramet.attention.tree_plan import Items, Kind, plan_tree
from ramet.kernels.triton.attention import (
    HEAD_FIELDS,
    NARROW_TILE,
    READ_FIELDS,
    Partials,
    attend,
    launch_of,
    merge,
)
from ramet.model_io import Int32Array, Segments

WIDE_TILE = 128
WIDE_TILE_OF_LARGE_HEADS = 64  # their sums take twice the registers
LARGE_HEAD = 128
FIXED_SPAN = 8  # chunks
ITEMSIZE = 2  # bytes of a query's number that work is shared out for; others only are not shared out as well


@dataclass(frozen=True, slots=True)
class Layout:
    """A step's plan on the host, as one array of int32 that kernels read (`ramet.kernels.triton.attention`).

    ``reads`` are rows of ``table``, which has one for each segment.
    """

    num_wide: int
    num_narrow: int
    num_partials: int
    table: Int32Array
    reads: NDArray[np.intp]
    before: Sequence[NDArray[np.integer]]  # the arrays before the reads
    after: Sequence[NDArray[np.integer]]  # and those behind them

    @property
    def size(self) -> int:
        """Numbers in the array."""
        others = sum(map(len, (*self.before, *self.after)))
        return HEAD_FIELDS + others + len(self.reads) * int(READ_FIELDS.value)

    def write(self, into: Int32Array) -> None:
        """Fill ``into`` ``[size]``."""
        reads = self.table[self.reads].reshape(-1)
        parts = (*self.before, reads, *self.after)
        begins = list(accumulate(map(len, parts), initial=HEAD_FIELDS))
        into[:HEAD_FIELDS] = (self.num_wide, self.num_wide + self.num_narrow, *begins[:-1])
        for begin, part in zip(begins, parts, strict=False):
            into[begin : begin + len(part)] = part


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A plan where the kernels are."""

    array: torch.Tensor  # int32
    partials: Partials
    wide_programs: int  # 0: there are no such items
    narrow_programs: int


class TritonAttention:
    """`AttentionBackend` in Triton.

    Its kernels read from the device's memory how much there is to do, so that a step's launches depend on the
    number of its rows alone and can be recorded: see `lay_out` and `recorded_plan`.

    Args:
        num_heads, num_kv_heads, head_dim: of the model.
        num_multiprocessors: of the device; there is work for all of them if a step has enough.
        deterministic: what a row becomes depends on its own context alone, bit for bit. Costs speed where
            rows share a context: what a tile would read once for many rows, it reads for few.

    Queries and the pool may differ in dtype: what is read from the pool is converted to that of the queries.
    """

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        num_multiprocessors: int,
        deterministic: bool = False,
    ) -> None:
        group = num_heads // num_kv_heads
        self._num_heads = num_heads
        self._num_kv_heads = num_kv_heads
        self._head_dim = head_dim
        self._narrow_tile = max(NARROW_TILE, _power_of_two(group))
        self._wide_tile = WIDE_TILE if head_dim <= LARGE_HEAD else WIDE_TILE_OF_LARGE_HEADS
        block_d = Partials.block_of(head_dim)
        self._wide_programs, self._narrow_programs = (
            num_multiprocessors * launch_of(tile, block_d, ITEMSIZE).programs_per_multiprocessor
            for tile in (self._wide_tile, self._narrow_tile)
        )
        narrow_rows = self._narrow_tile // group
        self._narrow = Kind(narrow_rows, max(self._narrow_programs // num_kv_heads, 1))
        # Whole narrow blocks, even if the tile has room for more rows
        wide_rows = self._wide_tile // group // narrow_rows * narrow_rows
        self._wide = Kind(wide_rows, max(self._wide_programs // num_kv_heads, 1))
        self._deterministic = deterministic

    def plan(self, forward: ForwardBatch) -> ForwardBatch:
        device = forward.positions.device
        layout = self.lay_out(forward.segments, len(forward.positions))
        array = host_array(layout.size, device)
        layout.write(array.numpy())
        placed = DevicePlan(
            array=array.to(device, non_blocking=True),
            partials=Partials(layout.num_partials, self._num_heads, self._head_dim, device),
            wide_programs=min(layout.num_wide * self._num_kv_heads, self._wide_programs),
            narrow_programs=min(layout.num_narrow * self._num_kv_heads, self._narrow_programs),
        )
        return replace(forward, plan=placed)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, forward: ForwardBatch
    ) -> torch.Tensor:
        plan = forward.plan
        assert isinstance(plan, DevicePlan), f"attention before plan(): {type(plan).__name__}"
        queries = queries.contiguous()
        wide_rows = 0 if self._deterministic else self._wide.rows
        for is_wide, tile, num_programs in (
            (True, self._wide_tile, plan.wide_programs),
            (False, self._narrow_tile, plan.narrow_programs),
        ):
            if num_programs:
                attend(
                    queries,
                    keys,
                    values,
                    forward.positions,
                    plan.array,
                    plan.partials,
                    tile=tile,
                    wide_rows=wide_rows,
                    is_wide=is_wide,
                    num_programs=num_programs,
                )
        out = torch.empty_like(queries)
        merge(plan.partials, plan.array, out, wide_rows=wide_rows, narrow_rows=self._narrow.rows)
        return out.reshape(len(queries), self._num_heads * self._head_dim)

    def lay_out(self, segments: Segments, num_rows: int, padded_rows: int = 0) -> Layout:
        """The plan of a step, on the host.

        Args:
            segments: of the step.
            num_rows: of the step.
            padded_rows: if more than ``num_rows``, there are further ones behind them that read nothing.
        """
        wide, narrow = self._wide, self._narrow
        plan = plan_tree(
            segments,
            num_rows,
            wide=None if self._deterministic else wide,
            narrow=narrow,
            span_chunks=FIXED_SPAN if self._deterministic else None,
        )
        num_wide, num_narrow = len(plan.wide), len(plan.narrow)
        rows = max(padded_rows, num_rows)
        table = np.empty((len(segments.row_begin), READ_FIELDS.value), dtype=np.int32)
        table[:, 0] = segments.slot_offsets[:-1]
        table[:, 1] = segments.slot_offsets[1:]
        table[:, 1] -= table[:, 0]
        table[:, 2] = segments.first_position
        table[:, 3] = segments.row_begin
        table[:, 4] = segments.row_end
        return Layout(
            num_wide=num_wide,
            num_narrow=num_narrow,
            num_partials=num_wide * wide.rows + num_narrow * narrow.rows,
            table=table,
            reads=np.concatenate((plan.wide.segments, plan.narrow.segments)),
            before=(
                np.concatenate((plan.wide.order, plan.narrow.order + num_wide)),
                np.concatenate((plan.wide.block, plan.narrow.block)),
                np.concatenate((plan.wide.offsets[:-1], plan.narrow.offsets + len(plan.wide.segments))),
            ),
            after=(
                _ranges(plan.wide, -(-rows // wide.rows), first_item=0),
                _ranges(plan.narrow, -(-rows // narrow.rows), first_item=num_wide),
                segments.slots,
            ),
        )

    def recorded_plan(self, array: torch.Tensor, partials: Partials, *, has_wide: bool) -> DevicePlan:
        """What to set as `ForwardBatch.plan` while a step is recorded.

        Args:
            array: int32 on the device; whenever the step runs, what `Layout.write` wrote for it.
            partials: with room for all partials of any such step.
            has_wide: whether wide items are to be computed; those of a plan that has some must be.
        """
        return DevicePlan(array, partials, self._wide_programs if has_wide else 0, self._narrow_programs)

    def partials_within(self, num_bytes: int, device: torch.device) -> Partials:
        """As many partials as take so much memory."""
        each = 4 * self._num_heads * (Partials.block_of(self._head_dim) + 2)
        return Partials(max(num_bytes // each, 1), self._num_heads, self._head_dim, device)


def _ranges(items: Items, num_blocks: int, *, first_item: int) -> NDArray[np.intp]:
    """The items of each of so many blocks; those that the plan does not know have none."""
    ranges = np.full(num_blocks + 1, first_item + len(items), dtype=np.intp)
    ranges[: len(items.ranges)] = items.ranges + first_item
    return ranges


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()
