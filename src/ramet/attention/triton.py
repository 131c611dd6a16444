"""Attention on a GPU: the plan of `ramet.attention.tree_plan`, computed by Triton kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ramet.attention.base import ForwardBatch
from ramet.attention.tree_plan import Items, plan_tree
from ramet.kernels.triton.attention import Partials, attend, merge
from ramet.model_io import CHUNK_TOKENS

WIDE_TILE = 128
WIDE_TILE_OF_LARGE_HEADS = 64  # their sums take twice the registers
LARGE_HEAD = 128
NARROW_TILE = 16  # the least that a product of the tensor cores takes
FIXED_SPAN = 8  # chunks
PROGRAMS_PER_MULTIPROCESSOR = 4  # enough that none waits for the last one long


@dataclass(frozen=True, slots=True)
class _DevicePlan:
    """A plan where the kernels are."""

    positions: torch.Tensor
    segments: tuple[torch.Tensor, ...]
    wide: tuple[torch.Tensor, ...]
    narrow: tuple[torch.Tensor, ...]
    row_offsets: torch.Tensor
    row_partials: torch.Tensor
    partials: Partials


class TritonAttention:
    """`AttentionBackend` in Triton.

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
        self._narrow_rows = self._narrow_tile // group
        self._wide_tile = WIDE_TILE if head_dim <= LARGE_HEAD else WIDE_TILE_OF_LARGE_HEADS
        self._wide_rows = 0 if deterministic else self._wide_tile // group
        self._deterministic = deterministic
        self._num_programs = num_multiprocessors * PROGRAMS_PER_MULTIPROCESSOR

    def plan(self, forward: ForwardBatch) -> ForwardBatch:
        segments, device = forward.segments, forward.positions.device
        num_rows = len(forward.positions)
        plan = plan_tree(
            segments,
            num_rows,
            wide_rows=self._wide_rows,
            narrow_rows=self._narrow_rows,
            span_chunks=self._span_chunks(forward),
        )
        arrays = [
            segments.row_begin,
            segments.row_end,
            segments.first_position,
            segments.slot_offsets,
            segments.slots,
            *_arrays(plan.wide),
            *_arrays(plan.narrow),
            plan.row_offsets,
            plan.row_partials,
        ]
        sent = _send(arrays, device)
        placed = _DevicePlan(
            positions=forward.positions.to(torch.int32),
            segments=sent[:5],
            wide=sent[5:10],
            narrow=sent[10:15],
            row_offsets=sent[15],
            row_partials=sent[16],
            partials=Partials(plan.num_partials, self._num_heads, self._head_dim, device),
        )
        return replace(forward, plan=placed)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, forward: ForwardBatch
    ) -> torch.Tensor:
        plan = forward.plan
        assert isinstance(plan, _DevicePlan), f"attention before plan(): {type(plan).__name__}"
        queries = queries.contiguous()
        for items, tile in ((plan.wide, self._wide_tile), (plan.narrow, self._narrow_tile)):
            attend(queries, keys, values, plan.positions, plan.segments, items, plan.partials, tile=tile)
        out = torch.empty_like(queries)
        merge(plan.partials, plan.row_offsets, plan.row_partials, out)
        return out.reshape(len(queries), self._num_heads * self._head_dim)

    def _span_chunks(self, forward: ForwardBatch) -> int:
        """Chunks of positions per item: as many as leave every processor enough to do."""
        if self._deterministic:
            return FIXED_SPAN
        segments = forward.segments
        rows = np.maximum(segments.row_end - segments.row_begin, 1)
        blocks = -(-rows // max(self._wide_rows, 1))
        chunks_each = int(blocks.sum()) * self._num_kv_heads // self._num_programs
        longest = int(segments.first_position[-1]) // CHUNK_TOKENS + 1
        return min(max(_power_of_two(chunks_each), FIXED_SPAN), _power_of_two(longest))


def _arrays(items: Items) -> tuple[NDArray[np.int32], ...]:
    return items.row, items.num_rows, items.offsets, items.segments, items.partial


def _send(arrays: list[NDArray[np.int32]], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Arrays to a device, in one copy."""
    together = torch.from_numpy(np.concatenate(arrays).astype(np.int32, copy=False)).to(device)
    ends = np.cumsum([len(array) for array in arrays]).tolist()
    return tuple(together[end - len(array) : end] for end, array in zip(ends, arrays, strict=True))


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()
