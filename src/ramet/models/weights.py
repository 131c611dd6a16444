"""The door to a model's files: its config, and its weights one tensor at a time.

Weights come under Hugging Face names and in its layout. Files stay memory-mapped; nothing is kept of a
tensor that was handed out. Invariant: every tensor has the shape its config says. Knows nothing of devices
or of the modules the tensors go into.
"""

from __future__ import annotations

from pathlib import Path

from ramet.models.base import Weights
from ramet.models.config import ModelConfig
from ramet.models.gguf_weights import GgufWeights
from ramet.models.hf_weights import SafetensorsWeights
from ramet.models.read_config import load_model_config

__all__ = ["Weights", "load_model_config", "open_weights"]


def open_weights(path: Path, config: ModelConfig) -> Weights:
    """The weights at ``path``, a GGUF file or a folder of safetensors.

    ``names()`` gives the tensors the config asks for, in the order of the model; tied models have no
    ``lm_head.weight``. ``tensor(name)`` is on the CPU: quantized tensors come as float32; float32, float16
    and bfloat16 as they are stored.

    Raises:
        ModelNotFound: there are no weights.
        CorruptWeights: a shard or a tensor is missing, or a file is truncated. From ``tensor()`` also: the
            shape is not what the config says.
        UnsupportedModel: from ``tensor()``: a type this version cannot read.
    """
    return SafetensorsWeights(path, config) if path.is_dir() else GgufWeights(path, config)
