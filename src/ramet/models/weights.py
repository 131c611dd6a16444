"""The door to a model's files: its config, and its weights one tensor at a time.

Weights come under Hugging Face names and in its layout, but not decoded. Files stay memory-mapped; nothing
is kept of a tensor that was handed out. Invariant: every tensor has the shape its config says. Knows nothing
of torch, of devices or of what the tensors become.
"""

from __future__ import annotations

from pathlib import Path

from ramet.models.config import ModelConfig
from ramet.models.gguf_weights import GgufWeights
from ramet.models.hf_weights import SafetensorsWeights
from ramet.models.read_config import load_model_config
from ramet.models.stored import StoredWeights

__all__ = ["StoredWeights", "load_model_config", "open_weights"]


def open_weights(path: Path, config: ModelConfig) -> StoredWeights:
    """The weights at ``path``, a GGUF file or a folder of safetensors.

    ``names()`` gives the tensors the config asks for, in the order of the model; tied models have no
    ``lm_head.weight``.

    Raises:
        ModelNotFound: there are no weights.
        CorruptWeights: a shard or a tensor is missing, or a file is truncated. From ``stored()`` also: the
            shape is not what the config says.
        UnsupportedModel: from ``stored()``: a type this version cannot read.
    """
    return SafetensorsWeights(path, config) if path.is_dir() else GgufWeights(path, config)
