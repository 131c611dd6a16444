"""The torch runner: a model, what computes its rows and a KV pool behind `ramet.model_io.ModelRunner`.

Invariant: float32 logits of a row on the CPU are the same bits in whatever step, batch or chunk the row is
computed. Must not know: requests, trees, text, where the model came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from ramet.errors import EngineDead
from ramet.model_io import DrawnStep, Finished, ModelInput, Sampling
from ramet.models.base import CausalModel
from ramet.runner.forward import Forward
from ramet.runner.kv_pool import KVPool
from ramet.runner.sampler import Scores, sample


class DrawnOnDevice(DrawnStep, Protocol):
    """A `DrawnStep` whose tokens the next step can read before they are collected."""

    @property
    def token_ids(self) -> torch.Tensor:
        """``[num_samples]`` int32 on the device."""
        ...


LogitsOf: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Draw: TypeAlias = Callable[[LogitsOf, int, Sampling, Scores, torch.device], DrawnOnDevice]
"""What `ramet.runner.device_sampler.draw` does."""


class TorchModelRunner:
    """Computes steps with torch; satisfies `ModelRunner`."""

    def __init__(
        self,
        model: CausalModel,
        forward: Forward,
        pool: KVPool,
        device: torch.device,
        draw: Draw | None = None,
    ) -> None:
        """
        Args:
            model: of whose hidden states logits are computed.
            forward: computes them and writes to the pool.
            pool: keys and values.
            device: where all of them are.
            draw: orders samples; without it they are drawn by the reference, which waits for each.
        """
        self._model: CausalModel | None = model
        self._forward: Forward | None = forward
        self._device = device
        self._draw = draw
        self._drawn: torch.Tensor | None = None  # tokens of the step drawn last, [num_samples] on the device
        self._num_slots = pool.num_slots
        self._pool_bytes = pool.num_bytes
        self._config = model.config

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
        return f"{'torch' if self._draw is None else 'triton'} on {self._device}"

    @property
    def is_asynchronous(self) -> bool:
        return self._draw is not None

    def launch(self, model_input: ModelInput) -> TorchStep:
        if self._forward is None:
            raise EngineDead("the model runner has been closed")
        with _device_in_use():
            return TorchStep(self, model_input, self._forward(model_input, self._drawn))

    def draw(self, model_input: ModelInput, hidden: torch.Tensor, sampling: Sampling) -> DrawnStep:
        """Logits of the rows that are wanted, and samples from them; for `TorchStep`."""
        model, vocab_size = self._model, self._config.vocab_size
        if model is None:
            raise EngineDead("the model runner has been closed")

        def logits_of(rows: torch.Tensor) -> torch.Tensor:
            return model.logits(hidden.index_select(0, rows))

        scores = Scores(model_input.score_rows, model_input.score_token_ids)
        with _device_in_use():
            if self._draw is not None:
                drawn = self._draw(logits_of, vocab_size, sampling, scores, self._device)
                self._drawn = drawn.token_ids
                return drawn
            output = sample(logits_of, vocab_size, sampling, scores, self._device)
            self._drawn = torch.from_numpy(output.token_ids).to(self._device)
            return Finished(output)

    def close(self) -> None:
        self._model = self._forward = self._drawn = None


@dataclass(frozen=True, slots=True)
class TorchStep:
    """A `LaunchedStep` of the torch runner."""

    runner: TorchModelRunner
    model_input: ModelInput
    hidden: torch.Tensor  # [num_rows or more, hidden_size]

    def draw(self, sampling: Sampling) -> DrawnStep:
        return self.runner.draw(self.model_input, self.hidden, sampling)


@contextmanager
def _device_in_use() -> Iterator[None]:
    """
    Raises:
        EngineDead: the device failed, now or when it computed an earlier step; it does nothing more then.
    """
    try:
        with torch.inference_mode():
            yield
    except torch.AcceleratorError as error:
        raise EngineDead(f"the device failed: {error}") from error
