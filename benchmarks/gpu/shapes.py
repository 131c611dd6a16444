"""The models that are measured: shapes without weights, and the arithmetic that a token of each costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ramet.models.config import ModelConfig
from ramet.models.read_config import load_model_config
from ramet.models.tensor_shapes import tensor_shapes

_LLAMA: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}
_SIZES: Mapping[str, Mapping[str, object]] = {
    "Llama-3-8B": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,  # longer than the model's own, for the prompt that branches share
        "tie_word_embeddings": False,
    },
    "Llama-3.2-1B": {
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
    },
    "check": {
        "num_hidden_layers": 4,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 8192,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
}
NAMES = tuple(_SIZES)


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes, and a folder with its ``config.json``."""

    name: str
    folder: Path
    config: ModelConfig

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of all layers."""
        shapes = tensor_shapes(self.config).items()
        return sum(prod(shape) for name, shape in shapes if ".layers." in name and len(shape) == 2)

    @property
    def head_weights(self) -> int:
        """Numbers in the matrix that makes logits."""
        return self.config.vocab_size * self.config.hidden_size

    def decode_bytes(self, context_tokens: int, slot_bytes: float, weight_bytes: int) -> float:
        """Bytes a decode step must read: all matrices once, and the KV of so many tokens once.

        Args:
            context_tokens: of all rows together; what rows share counts once.
            slot_bytes: of a token's keys and values.
            weight_bytes: of a weight.
        """
        return (self.layer_weights + self.head_weights) * weight_bytes + context_tokens * slot_bytes

    def operations(self, rows: int, attended: int, logits: int) -> int:
        """Operations (two per multiply-add) of a step.

        Args:
            rows: of the step.
            attended: (row, key) pairs, over all rows.
            logits: rows that get logits.
        """
        config = self.config
        attention = 4 * attended * config.num_heads * config.head_dim * config.num_layers
        return 2 * rows * self.layer_weights + 2 * logits * self.head_weights + attention


def shape_of(name: str, folder: Path) -> Shape:
    """The shape of that name, its ``config.json`` written below ``folder`` if it is not there."""
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    path = own / "config.json"
    if not path.exists():
        path.write_text(json.dumps({**_LLAMA, **_SIZES[name]}, indent=2))
    return Shape(name, own, load_model_config(own))
