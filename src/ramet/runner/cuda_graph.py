"""Steps of few rows as CUDA graphs: recorded once for a number of rows, then replayed in one call.

A step of a few rows consists of hundreds of kernels that take microseconds each, less than it takes Python to
launch them. Recorded kernels read and write the same memory every time. So everything that differs between
steps (ids, positions, slots, the plan of attention) is written to static buffers before a replay, in one
copy, and rows are padded to one of a few numbers. A padding row reads nothing and writes its keys and values
to the pool's scratch slot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch

from ramet.attention.base import ForwardBatch, host_array
from ramet.attention.triton import Layout, TritonAttention
from ramet.kernels.triton.attention import Partials
from ramet.model_io import Int32Array, ModelInput, Segments
from ramet.models.base import CausalModel
from ramet.runner.forward import EagerForward
from ramet.runner.kv_pool import KVPool

logger = logging.getLogger(__name__)

MAX_ROWS = 256
PLAN_SIZE = 1 << 22  # int32 numbers: 256 rows with 15,000 positions each of their own
PARTIAL_BYTES = 128 * 2**20
MAX_DRAWN = 4096
NO_SEGMENTS = Segments(*(np.zeros(count, dtype=np.int32) for count in (0, 0, 0, 1, 0)))


@dataclass(frozen=True, slots=True)
class Recording:
    """Work that can be done again."""

    replay: Callable[[], object]
    output: torch.Tensor  # what a replay computes, always in the same place


class Graphs(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        """Record what ``work`` queues. It is called more than once, for whatever it prepares on first use.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        ...


class CudaGraphs:
    """`Graphs` of CUDA. They share their memory: only one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # One for all recordings: cuBLAS keeps a workspace for each stream, of 32 MiB on Hopper
        self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], torch.Tensor]) -> Recording:
        stream, aside = torch.cuda.current_stream(self._device), self._aside
        aside.wait_stream(stream)
        with torch.cuda.stream(aside):
            work()
        stream.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the device meanwhile
            with torch.cuda.graph(graph, self._pool, aside, capture_error_mode="thread_local"):
                output = work()
        finally:
            torch.cuda.set_stream(stream)  # torch leaves the stream of a recording that failed as it is
        return Recording(graph.replay, output)


@dataclass(frozen=True, slots=True)
class StaticBuffers:
    """The memory that recorded steps read, and attention's between its two kernels."""

    step: torch.Tensor  # int32: ids, positions and slots of MAX_ROWS rows, and the plan
    drawn: torch.Tensor  # [1 + MAX_DRAWN] int32: 0, and the tokens drawn last
    partials: Partials


class GraphedForward:
    """A `Forward` that replays steps of few rows, and leaves others to an `EagerForward`.

    A step is recorded when the first one of its padded number of rows, and with or without rows that share
    context, comes along. If that fails, steps that are not recorded are computed eagerly from then on.

    Args:
        model: whose forward launches the same kernels for every batch of as many rows.
        attention: likewise.
        pool: keys and values; its scratch slot is written to.
        device: where they are.
        graphs: records; by default CUDA does.
        max_rows: steps of more rows run eagerly.
        plan_size: numbers of int32 that a plan may have: those of larger ones run eagerly, as do others that
            ``partial_bytes`` does not suffice for.
        partial_bytes: memory for attention's partial results.
    """

    def __init__(
        self,
        model: CausalModel,
        attention: TritonAttention,
        pool: KVPool,
        device: torch.device,
        graphs: Graphs | None = None,
        *,
        max_rows: int = MAX_ROWS,
        plan_size: int = PLAN_SIZE,
        partial_bytes: int = PARTIAL_BYTES,
    ) -> None:
        self._model = model
        self._attention = attention
        self._pool = pool
        self._device = device
        self._graphs: Graphs | None = graphs or CudaGraphs(device)
        self._eager = EagerForward(model, attention, pool, device)
        self._max_rows = max_rows
        self._columns = padded_rows(max_rows)
        self.buffers = StaticBuffers(
            step=torch.zeros(3 * self._columns + plan_size, dtype=torch.int32, device=device),
            drawn=torch.zeros(1 + MAX_DRAWN, dtype=torch.int32, device=device),
            partials=attention.partials_within(partial_bytes, device),
        )
        self.recordings: dict[
            tuple[int, bool], Recording
        ] = {}  # by padded rows, and whether any share context

    @torch.inference_mode()
    def __call__(self, model_input: ModelInput, drawn: torch.Tensor | None) -> torch.Tensor:
        num_rows = len(model_input.input_ids)
        recording = None
        if num_rows <= self._max_rows and (self._graphs is not None or self.recordings):
            padded = padded_rows(num_rows)
            layout = self._attention.lay_out(model_input.segments, num_rows, padded)
            num_drawn = max(-int(model_input.input_ids.min()), 0)
            if self._has_room(layout, num_drawn):
                self._fill(model_input, layout, padded, drawn, num_drawn)
                recording = self._recorded(padded, layout.num_wide > 0)
        if recording is None:
            return self._eager(model_input, drawn)
        recording.replay()
        return recording.output

    def _has_room(self, layout: Layout, num_drawn: int) -> bool:
        """Whether the static buffers have room for a step."""
        buffers = self.buffers
        return (
            3 * self._columns + layout.size <= len(buffers.step)
            and layout.num_partials <= buffers.partials.num_partials
            and num_drawn < len(buffers.drawn)
        )

    def _fill(
        self, model_input: ModelInput, layout: Layout, padded: int, drawn: torch.Tensor | None, num_drawn: int
    ) -> None:
        """Queue everything that a replay reads: the step before, queued earlier, has read its own by then."""
        num_rows, of_rows = len(model_input.input_ids), 3 * self._columns
        host = host_array(of_rows + layout.size, self._device)
        array: Int32Array = host.numpy()
        given = (model_input.input_ids, model_input.positions, model_input.slot_ids)
        filler = (0, 0, self._pool.scratch_slot)
        for row, values, other in zip(array[:of_rows].reshape(3, -1), given, filler, strict=True):
            row[:num_rows] = values
            row[num_rows:padded] = other
        layout.write(array[of_rows:])
        self.buffers.step[: len(host)].copy_(host, non_blocking=True)
        if num_drawn:
            assert drawn is not None, "ids below 0, but no tokens were drawn"
            torch.clamp(drawn[:num_drawn], min=0, out=self.buffers.drawn[1 : 1 + num_drawn])

    def _recorded(self, padded: int, has_wide: bool) -> Recording | None:
        """The recording of such a step, made now if there is none; None if it cannot be recorded."""
        key = padded, has_wide
        if key not in self.recordings and self._graphs is not None:
            begin = time.perf_counter()
            try:
                self.recordings[key] = self._graphs.record(partial(self._compute, padded, has_wide))
            except RuntimeError as error:  # torch's, of whatever kind
                self._graphs = None
                logger.warning("computing steps without CUDA graphs, which is slower: %s", error)
                return None
            logger.info(
                "recorded a CUDA graph of %d rows%s in %.1f s",
                padded,
                " that share context" if has_wide else "",
                time.perf_counter() - begin,
            )
        return self.recordings.get(key)

    def _compute(self, padded: int, has_wide: bool) -> torch.Tensor:
        """A step from the static buffers: the work that is recorded."""
        buffers, of_rows = self.buffers, 3 * self._columns
        # Cut after the copy: each stands at a round address then, whatever the number of rows
        rows = buffers.step[:of_rows].view(3, -1).to(torch.int64)
        input_ids, positions, slot_ids = rows[:, :padded].unbind()
        # An id of -1 - k finds number 1 + k there; any other the 0, than which it is not less
        known = buffers.drawn.index_select(0, input_ids.neg().clamp_min_(0))
        plan = self._attention.recorded_plan(buffers.step[of_rows:], buffers.partials, has_wide=has_wide)
        batch = ForwardBatch(torch.maximum(input_ids, known), positions, slot_ids, NO_SEGMENTS, plan)
        return self._model.forward(batch, self._attention, self._pool)


def padded_rows(num_rows: int) -> int:
    """The number of rows that so many are padded to: few numbers, none of them much larger than needed."""
    for limit, step in ((2, 1), (4, 2), (8, 4), (128, 8)):
        if num_rows <= limit:
            return -(-num_rows // step) * step
    return -(-num_rows // 16) * 16
