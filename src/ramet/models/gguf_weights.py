"""Weights from a GGUF file: names and llama.cpp's order of rotary rows undone.

Blocks stay encoded: rows are moved whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.gguf_file import GgufFile
from ramet.models.config import ModelConfig
from ramet.models.stored import FLOAT_BYTES, StoredTensor, as_float32
from ramet.models.tensor_shapes import tensor_shapes

_BLOCK_TYPES = ("Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0")

_TOP_LEVEL = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PERMUTED_ARCHITECTURES = frozenset({"llama", "mistral"})


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor: ``model.layers.3.mlp.up_proj.weight`` is ``blk.3.ffn_up.weight``."""
    module, _, kind = name.rpartition(".")
    if module in _TOP_LEVEL:
        return f"{_TOP_LEVEL[module]}.{kind}"
    layer, _, inner = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_IN_LAYER[inner]}.{kind}"


class GgufWeights:
    """See `ramet.models.weights.open_weights`."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._file = GgufFile(path)
        self._config = config
        self._shapes = tensor_shapes(config)
        missing = [gguf_name(name) for name in self._shapes if gguf_name(name) not in self._file.tensors]
        if missing:
            raise CorruptWeights(
                f"{path} lacks {len(missing)} tensors of the model, the first is {missing[0]!r}; "
                "convert or download it again"
            )

    def names(self) -> Iterable[str]:
        return tuple(self._shapes)

    def stored(self, name: str) -> StoredTensor:
        shape = self._shapes.get(name)
        if shape is None:
            raise CorruptWeights(f"{self._file.path}: a model of this config has no tensor {name!r}")
        entry = self._file.tensors[gguf_name(name)]
        if entry.shape != shape:
            raise CorruptWeights(
                f"{self._file.path}: tensor {entry.name!r} has shape {entry.shape}, the config says {shape}"
            )
        kind = entry.tensor_type.name
        if kind not in FLOAT_BYTES and kind not in _BLOCK_TYPES:
            raise UnsupportedModel(
                f"{self._file.path}: tensor {entry.name!r} has type {kind}; supported are "
                f"{', '.join((*FLOAT_BYTES, *_BLOCK_TYPES))}"
            )
        stored = StoredTensor.of(shape, kind, self._file.data(entry))
        heads = {"q_proj": self._config.num_heads, "k_proj": self._config.num_kv_heads}
        projection = name.split(".")[-2]
        if projection in heads and self._config.architecture in _PERMUTED_ARCHITECTURES:
            return _unpermute(stored, heads[projection])
        return stored


def _unpermute(stored: StoredTensor, num_heads: int) -> StoredTensor:
    """Rows of q or k, or elements of their bias, from llama.cpp's order to Hugging Face's.

    llama.cpp rotates neighbouring rows of a head, Hugging Face a row of the first half with one of the
    second; converters interleave the halves, and this takes them apart again.
    """
    if len(stored.shape) == 1 and stored.type not in FLOAT_BYTES:  # elements of one block cannot move
        stored = StoredTensor.of(stored.shape, "F32", as_float32(stored).view(np.uint8))
    half = stored.shape[0] // num_heads // 2
    pairs = stored.data.reshape(num_heads, half, 2, -1)  # the last are the bytes of a row or an element
    return replace(stored, data=pairs.swapaxes(1, 2).reshape(stored.data.shape))
