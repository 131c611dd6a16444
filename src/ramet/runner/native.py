"""The native runner: a decoder in C++ and its KV pool behind `ramet.model_io.ModelRunner`.

A step is one call that computes all layers, and one for logits and samples from them; both run without the
interpreter lock on the same team of threads. Invariant: the logits of a row are the same bits in whatever
step, batch or chunk the row is computed. Must not know: requests, trees, text, torch.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ramet.errors import EngineDead
from ramet.model_io import Finished, Float32Array, ModelInput, ModelOutput, Sampling
from ramet.models.config import ModelConfig
from ramet.runner.native_sampler import NativeSampler
from ramet.runner.pool_memory import PoolMemory

if TYPE_CHECKING:
    from ramet.kernels import _cpu


class NativeModelRunner:
    """Computes steps on the CPU; satisfies `ModelRunner`."""

    def __init__(
        self,
        config: ModelConfig,
        decoder: _cpu.Decoder,
        sampler: NativeSampler,
        num_slots: int,
        *,
        pool_bytes: int,
        kernels: str,
    ) -> None:
        """
        Args:
            config: the model's.
            decoder: with all weights and no pool yet.
            sampler: draws from the logits.
            num_slots: slots of the pool.
            pool_bytes: memory the pool takes.
            kernels: what computes, in a few words for people.
        """
        decoder.allocate_kv(num_slots)
        self._pool_memory = PoolMemory(decoder.populate_kv)
        self._config = config
        self._decoder: _cpu.Decoder | None = decoder
        self._sampler: NativeSampler | None = sampler
        self._num_slots = num_slots
        self._pool_bytes = pool_bytes
        self._kernels = kernels
        self._draw_seconds = 0.0

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def pool_bytes(self) -> int:
        return self._pool_bytes

    @property
    def vocab_size(self) -> int:
        return self._config.vocab_size

    @property
    def context_length(self) -> int:
        return self._config.context_length

    @property
    def kernels(self) -> str:
        return self._kernels

    @property
    def is_asynchronous(self) -> bool:
        return False

    def launch(self, model_input: ModelInput) -> NativeStep:
        decoder = self._decoder
        if decoder is None:
            raise EngineDead("the model runner has been closed")
        hidden = np.empty((len(model_input.logit_rows), self._config.hidden_size), dtype=np.float32)
        segments = model_input.segments
        with self._pool_memory:
            decoder.forward(
                model_input.input_ids,
                model_input.positions,
                model_input.slot_ids,
                segments.row_begin,
                segments.row_end,
                segments.first_position,
                segments.slot_offsets,
                segments.slots,
                model_input.logit_rows,
                hidden,
            )
        return NativeStep(self, model_input, hidden)

    def draw(self, model_input: ModelInput, hidden: Float32Array, sampling: Sampling) -> ModelOutput:
        """Logits of the rows that are wanted, and samples from them; for `NativeStep`."""
        decoder, sampler = self._decoder, self._sampler
        if decoder is None or sampler is None:
            raise EngineDead("the model runner has been closed")
        started = time.perf_counter()
        output = sampler.sample(decoder, hidden, model_input, sampling)
        self._draw_seconds += time.perf_counter() - started
        return output

    def set_profile(self, on: bool) -> None:
        """Measure the parts of a step; each then ends with a wait for all threads, which costs a little."""
        if self._decoder is not None:
            self._decoder.set_profile(on)
            self._decoder.take_profile()
        self._draw_seconds = 0.0

    def take_profile(self) -> dict[str, float]:
        """Seconds by part since the last call. Where profiling is off, logits count as sampling and all else
        takes none."""
        phases = {"logits": 0.0} if self._decoder is None else self._decoder.take_profile()
        phases["sampling"] = self._draw_seconds - phases["logits"]
        self._draw_seconds = 0.0
        return phases

    def close(self) -> None:
        self._pool_memory.close()
        self._decoder = self._sampler = None


class NativeStep(msgspec.Struct, frozen=True, eq=False):
    """A `LaunchedStep` whose rows are computed."""

    runner: NativeModelRunner
    model_input: ModelInput
    hidden: Float32Array  # [num_logit_rows, hidden_size]

    def draw(self, sampling: Sampling) -> Finished:
        return Finished(self.runner.draw(self.model_input, self.hidden, sampling))
