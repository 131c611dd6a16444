"""Architectures by name. Adding a model is one file and one line here."""

from __future__ import annotations

from typing import Protocol

import torch

from ramet.errors import UnsupportedModel
from ramet.layers.base import Operations
from ramet.models.base import CausalModel
from ramet.models.config import ModelConfig
from ramet.models.llama import LlamaModel
from ramet.models.stored import OnProgress, StoredWeights


class ModelConstructor(Protocol):
    """Builds a model from its configuration and its weights."""

    def __call__(
        self,
        config: ModelConfig,
        weights: StoredWeights,
        *,
        dtype: torch.dtype,
        device: torch.device,
        on_progress: OnProgress | None = None,
        operations: Operations | None = None,
    ) -> CausalModel: ...


MODELS: dict[str, ModelConstructor] = {
    "llama": LlamaModel,
    "mistral": LlamaModel,
    "qwen2": LlamaModel,
    "qwen3": LlamaModel,
}


def model_constructor(architecture: str) -> ModelConstructor:
    """The constructor for ``ModelConfig.architecture``.

    Raises:
        UnsupportedModel: there is none.
    """
    constructor = MODELS.get(architecture)
    if constructor is None:
        raise UnsupportedModel(
            f"the architecture {architecture!r} is not supported (known: {', '.join(sorted(MODELS))})"
        )
    return constructor
