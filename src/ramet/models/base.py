"""What a model is built from, and what a runner asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import torch

from ramet.attention.base import AttentionBackend, ForwardBatch, KVStore
from ramet.models.config import ModelConfig

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all) while a model loads."""


class Weights(Protocol):
    """Tensors of a checkpoint under their Hugging Face names, such as ``model.norm.weight``.

    Each has the shape that the model's configuration says; what reads the files checks it.
    """

    def names(self) -> Iterable[str]: ...

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor on the CPU in a floating-point dtype.

        Raises:
            CorruptWeights: there is no such tensor, or it is damaged.
            UnsupportedModel: its type cannot be read.
        """
        ...


class CausalModel(Protocol):
    """A decoder that predicts the next token."""

    @property
    def config(self) -> ModelConfig: ...

    def forward(self, batch: ForwardBatch, attention: AttentionBackend, store: KVStore) -> torch.Tensor:
        """Hidden states ``[num_rows, hidden_size]`` of a planned batch; writes the rows' KV on the way."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits ``[n, vocab_size]`` of ``n`` rows of `forward`'s result."""
        ...
