"""Measures, on the device itself, what the largest step takes beside weights and KV.

Arithmetic with what is measured: `ramet.runner.memory`. Must not know: which device it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from msgspec.structs import replace

from ramet.config import SchedulerConfig
from ramet.model_io import (
    CHUNK_TOKENS,
    Int32Array,
    LogitBias,
    ModelInput,
    ModelRunner,
    Penalties,
    Sampling,
    Segments,
    execute,
)
from ramet.models.config import ModelConfig
from ramet.runner.memory import Measured


class MemoryMeter(Protocol):
    """Counts the memory of a device, in bytes."""

    def restart(self) -> None:
        """Let `highest` begin at what is allocated now."""
        ...

    def allocated(self) -> int:
        """What tensors hold now."""
        ...

    def highest(self) -> int:
        """The most they have held at a time since `restart`."""
        ...

    def free(self) -> int:
        """What the device could still give, nothing being kept for later tensors."""
        ...


class CudaMemory:
    """A `MemoryMeter` of one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def restart(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def highest(self) -> int:
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)

    def free(self) -> int:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]


def meter_of(device: torch.device) -> MemoryMeter | None:
    """What counts a device's memory; None for the host, which cannot tell whose it is."""
    return CudaMemory(device) if device.type == "cuda" else None


def measure(
    make_runner: Callable[[int], ModelRunner], meter: MemoryMeter, config: ModelConfig, steps: SchedulerConfig
) -> Measured:
    """Compute one step of the largest size and see what it takes; and some of a single row.

    The kernels of all are compiled now, while people are shown that something is loading: compiled for the
    first request that needs them, they would hold up all others for seconds.

    What stays allocated after it (workspaces of libraries, buffers of attention) counts as not free; what is
    gone with it, as taken by a step.

    Args:
        make_runner: a runner over a pool of so many slots; nothing of it may outlive it.
        meter: of the device it computes on, which holds the weights.
        config: of the model.
        steps: how large a step may be.
    """
    num_rows = steps.max_batch_tokens
    model_input, sampling = largest_step(
        num_rows, min(steps.max_running_requests, num_rows), config.context_length
    )
    meter.restart()
    pool_bytes = _run(make_runner, (model_input, sampling), *sampled_in_every_way(config))
    highest = meter.highest()
    kept = meter.allocated()
    return Measured(step=max(highest - kept - pool_bytes, 0), free=meter.free())


def _run(make_runner: Callable[[int], ModelRunner], *steps: tuple[ModelInput, Sampling]) -> int:
    """Compute steps, the largest first, with a runner for them alone; returns the bytes of its pool."""
    runner = make_runner(len(steps[0][0].slot_ids))
    for model_input, sampling in steps:
        execute(runner, model_input, sampling)
    runner.close()
    return runner.pool_bytes


def largest_step(num_rows: int, num_samples: int, context_length: int) -> tuple[ModelInput, Sampling]:
    """Prompts of so many tokens in all, computed whole: row ``i`` in slot ``i``.

    Each prompt but the last is as long as the context. The last ``num_samples`` rows are sampled, in the way
    that takes most memory: from the sorted likeliest tokens, with logprobs.
    """
    begins = np.arange(0, num_rows, context_length)
    rows = np.arange(num_rows, dtype=np.int32)
    sampled = rows[num_rows - num_samples :]
    positions = rows % context_length

    model_input = ModelInput(
        input_ids=np.zeros(num_rows, dtype=np.int32),
        positions=positions,
        slot_ids=rows,
        segments=_segments([(int(begin), min(int(begin) + context_length, num_rows)) for begin in begins]),
        logit_rows=sampled,
        score_rows=np.zeros(0, dtype=np.int32),
        score_token_ids=np.zeros(0, dtype=np.int32),
    )
    sampling = Sampling(
        rows=sampled,
        temperature=np.ones(num_samples, dtype=np.float32),
        top_k=np.zeros(num_samples, dtype=np.int32),
        top_p=np.full(num_samples, 0.95, dtype=np.float32),
        min_p=np.zeros(num_samples, dtype=np.float32),
        seeds=np.zeros(num_samples, dtype=np.uint64),
        positions=positions[sampled].astype(np.int64) + 1,
        num_top_logprobs=np.ones(num_samples, dtype=np.int32),
    )
    return model_input, sampling


def sampled_in_every_way(config: ModelConfig) -> Iterator[tuple[ModelInput, Sampling]]:
    """Steps of one row that together ask for every kernel of sampling, in each of its variants."""
    model_input, sampling = largest_step(1, 1, config.context_length)
    first, ones = np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.float32)
    everything = replace(
        sampling,
        top_k=np.ones(1, dtype=np.int32),
        penalties=Penalties(ones, ones, ones, first, first, first),
        bias=LogitBias(first, first, ones),
    )
    allowed = np.full((1, -(-config.vocab_size // 32)), 2**32 - 1, dtype=np.uint32)
    for bitmask in (None, allowed):
        for temperature in (0 * ones, ones):
            yield model_input, replace(everything, temperature=temperature, bitmask=bitmask)


def _segments(prompts: list[tuple[int, int]]) -> Segments:
    """The attention plan of whole prompts, each given by its first row and its end."""
    longest = max(end - begin for begin, end in prompts)
    cut = [
        (first, begin + first, end)
        for first in range(0, longest, CHUNK_TOKENS)
        for begin, end in prompts
        if begin + first < end
    ]
    first_position, row_begin, row_end = np.array(cut, dtype=np.int32).T
    slots: list[Int32Array] = [
        np.arange(begin, min(begin + CHUNK_TOKENS, end), dtype=np.int32) for _, begin, end in cut
    ]
    return Segments(
        row_begin=row_begin,
        row_end=row_end,
        first_position=first_position,
        slot_offsets=np.cumsum([0, *map(len, slots)]).astype(np.int32),
        slots=np.concatenate(slots),
    )
