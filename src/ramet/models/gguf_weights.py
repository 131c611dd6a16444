"""Weights from a GGUF file: names, block formats and llama.cpp's order of rotary rows undone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as TensorType
from gguf.quants import dequantize

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.gguf_file import GgufFile, GgufTensor
from ramet.models.config import ModelConfig
from ramet.models.tensor_shapes import tensor_shapes

_BLOCK_TYPES = frozenset(
    {
        TensorType.Q4_0,
        TensorType.Q4_1,
        TensorType.Q5_0,
        TensorType.Q5_1,
        TensorType.Q8_0,
        TensorType.Q4_K,
        TensorType.Q5_K,
        TensorType.Q6_K,
    }
)

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

    def tensor(self, name: str) -> torch.Tensor:
        shape = self._shapes.get(name)
        if shape is None:
            raise CorruptWeights(f"{self._file.path}: a model of this config has no tensor {name!r}")
        entry = self._file.tensors[gguf_name(name)]
        if entry.shape != shape:
            raise CorruptWeights(
                f"{self._file.path}: tensor {entry.name!r} has shape {entry.shape}, the config says {shape}"
            )
        tensor = self._read(entry)
        heads = {"q_proj": self._config.num_heads, "k_proj": self._config.num_kv_heads}
        projection = name.split(".")[-2]
        if projection in heads and self._config.architecture in _PERMUTED_ARCHITECTURES:
            tensor = _unpermute(tensor, heads[projection])
        return tensor

    def _read(self, entry: GgufTensor) -> torch.Tensor:
        raw = self._file.data(entry)
        match entry.tensor_type:
            case TensorType.F32:
                values = torch.from_numpy(raw.view("<f4").copy())
            case TensorType.F16:
                values = torch.from_numpy(raw.view("<f2").copy())
            case TensorType.BF16:
                values = torch.from_numpy(raw.view("<i2").copy()).view(torch.bfloat16)
            case kind if kind in _BLOCK_TYPES:
                rows = raw.reshape(-1, entry.num_bytes // (np.prod(entry.shape[:-1], dtype=int) or 1))
                values = torch.from_numpy(dequantize(rows, kind))
            case kind:
                supported = ", ".join(sorted(t.name for t in _BLOCK_TYPES))
                raise UnsupportedModel(
                    f"{self._file.path}: tensor {entry.name!r} has type {kind.name}; supported are F32, F16, "
                    f"BF16, {supported}"
                )
        return values.reshape(entry.shape)


def _unpermute(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of q or k (or their bias) from llama.cpp's order to Hugging Face's.

    llama.cpp rotates neighbouring rows of a head, Hugging Face a row of the first half with one of the
    second; converters interleave the halves, and this takes them apart again.
    """
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])  # [heads, head_dim / 2, 2, ...]
    return pairs.transpose(1, 2).reshape(tensor.shape)
