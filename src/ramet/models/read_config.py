"""`ModelConfig` from a GGUF file or a Hugging Face folder.

Whatever a config asks for that the model code does not do is an error here, with its name: a model that
loads computes what its authors meant. Knows nothing of tensors' values.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.models.config import ModelConfig
from ramet.models.gguf_config import config_from_gguf
from ramet.models.hf_config import config_from_hf

logger = logging.getLogger(__name__)

MAX_LAYERS = 10_000  # more is a damaged header; tensors are listed layer by layer


def load_model_config(path: Path) -> ModelConfig:
    """The sizes and flags of the model at ``path``, a GGUF file or a folder with ``config.json``.

    A model with a sliding attention window gets a context no longer than the window: up to there both
    are the same.

    Raises:
        ModelNotFound: the file cannot be read.
        UnsupportedModel: an architecture or a feature this version does not compute.
        CorruptWeights: the file is damaged, or a key is missing or makes no sense.
    """
    config, window = config_from_hf(path) if path.is_dir() else config_from_gguf(path)
    if window is not None and window < config.context_length:
        logger.warning(
            "%s attends to the last %d positions only; its context of %d is cut to that",
            path,
            window,
            config.context_length,
        )
        config = replace(config, context_length=window)
    _check(path, config)
    return config


def _check(path: Path, config: ModelConfig) -> None:
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "context_length",
        "rms_norm_eps",
        "rope_theta",
    ):
        if getattr(config, name) <= 0:
            raise CorruptWeights(f"{path}: {name} must be positive, got {getattr(config, name)}")
    if config.num_layers > MAX_LAYERS:
        raise CorruptWeights(f"{path}: num_layers must be at most {MAX_LAYERS}, got {config.num_layers}")
    if config.num_heads % config.num_kv_heads:
        raise CorruptWeights(
            f"{path}: {config.num_heads} heads cannot share {config.num_kv_heads} key-value heads evenly"
        )
    if config.head_dim % 2:
        raise UnsupportedModel(f"{path}: rotary embeddings need an even head_dim, got {config.head_dim}")
