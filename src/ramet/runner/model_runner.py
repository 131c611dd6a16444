"""The torch runner: a model, an attention backend and a KV pool behind `ramet.model_io.ModelRunner`.

Invariant: float32 logits of a row on the CPU are the same bits in whatever step, batch or chunk the row is
computed. Must not know: requests, trees, text, where the model came from.
"""

from __future__ import annotations

import torch

from ramet.attention.base import AttentionBackend, ForwardBatch
from ramet.errors import EngineDead
from ramet.model_io import ModelInput, ModelOutput
from ramet.models.base import CausalModel
from ramet.runner.kv_pool import KVPool
from ramet.runner.sampler import Scores, sample


class TorchModelRunner:
    """Computes steps with torch; satisfies `ModelRunner`."""

    def __init__(
        self, model: CausalModel, attention: AttentionBackend, pool: KVPool, device: torch.device
    ) -> None:
        self._model: CausalModel | None = model
        self._attention = attention
        self._pool: KVPool | None = pool
        self._device = device
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
        return f"torch on {self._device}"

    def execute(self, model_input: ModelInput) -> ModelOutput:
        model, pool = self._model, self._pool
        if model is None or pool is None:
            raise EngineDead("the model runner has been closed")
        with torch.inference_mode():
            batch = self._attention.plan(ForwardBatch.from_input(model_input, self._device))
            hidden = model.forward(batch, self._attention, pool)
            return sample(
                lambda rows: model.logits(hidden.index_select(0, rows)),
                self._config.vocab_size,
                model_input.sampling,
                Scores(model_input.score_rows, model_input.score_token_ids),
                self._device,
            )

    def close(self) -> None:
        self._model = None
        self._pool = None
