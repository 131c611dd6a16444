"""What the torch runner asks of a model."""

from __future__ import annotations

from typing import Protocol

import torch

from ramet.attention.base import AttentionBackend, ForwardBatch, KVStore
from ramet.models.config import ModelConfig


class CausalModel(Protocol):
    """A decoder that predicts the next token."""

    @property
    def config(self) -> ModelConfig: ...

    def forward(self, batch: ForwardBatch, attention: AttentionBackend, store: KVStore) -> torch.Tensor:
        """Hidden states ``[num_rows, hidden_size]`` of a planned batch, behind the model's last norm; writes
        the rows' KV on the way."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits ``[n, vocab_size]`` of ``n`` rows of `forward`'s result."""
        ...
