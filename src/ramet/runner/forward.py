"""The rows of a step through the model: what the torch runner launches.

Must not know: logits, sampling.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ramet.attention.base import AttentionBackend, ForwardBatch
from ramet.model_io import ModelInput
from ramet.models.base import CausalModel
from ramet.runner.kv_pool import KVPool


class Forward(Protocol):
    """Computes the rows of steps and writes their KV."""

    def __call__(self, model_input: ModelInput, drawn: torch.Tensor | None) -> torch.Tensor:
        """Order a step.

        Args:
            model_input: the step.
            drawn: ``[num_samples]`` int32 on the device: the tokens that the step before drew, which ids
                below 0 stand for. One of -1 counts as 0.

        Returns:
            Hidden states ``[num_rows or more, hidden_size]`` on the device. They hold until the next call:
            what is computed from them must be queued, on the same stream, before that.
        """
        ...


class EagerForward:
    """A `Forward` that queues a step's operations one by one; of any size, on any device."""

    def __init__(
        self, model: CausalModel, attention: AttentionBackend, pool: KVPool, device: torch.device
    ) -> None:
        self._model = model
        self._attention = attention
        self._pool = pool
        self._device = device

    @torch.inference_mode()
    def __call__(self, model_input: ModelInput, drawn: torch.Tensor | None) -> torch.Tensor:
        batch = self._attention.plan(ForwardBatch.from_input(model_input, self._device, drawn))
        return self._model.forward(batch, self._attention, self._pool)
