"""Tiny checkpoints written to disk: a GGUF file or a Hugging Face folder of random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from ramet.models.config import ModelConfig
from ramet.models.gguf_weights import gguf_name
from ramet.models.stored import StoredWeights
from ramet.models.tensor_shapes import tensor_shapes
from ramet.models.torch_weights import TensorLoader

TINY = ModelConfig(
    architecture="llama",
    vocab_size=40,
    hidden_size=32,
    intermediate_size=256,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    context_length=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)

Arrays = dict[str, NDArray[np.float32]]


def random_weights(config: ModelConfig, seed: int = 0) -> Arrays:
    """Every tensor of the model under its Hugging Face name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in tensor_shapes(config).items()
    }


def loaded(weights: StoredWeights, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of the model TINY, as the torch models get it."""
    loader = TensorLoader(weights, tensor_shapes(TINY), dtype=dtype, device=torch.device("cpu"))
    return loader.load(name)


def interleaved(rows: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of each head in the order llama.cpp wants: 0, h/2, 1, h/2 + 1, … (spelled out)."""
    head_dim = len(rows) // num_heads
    half = head_dim // 2
    order = [
        head * head_dim + part * half + index
        for head in range(num_heads)
        for index in range(half)
        for part in (0, 1)
    ]
    return rows[order]


def gguf_settings(config: ModelConfig) -> dict[str, Any]:
    """The metadata of a GGUF file; keys without the architecture before them get it when written."""
    return {
        ".block_count": config.num_layers,
        ".context_length": config.context_length,
        ".embedding_length": config.hidden_size,
        ".feed_forward_length": config.intermediate_size,
        ".attention.head_count": config.num_heads,
        ".attention.head_count_kv": config.num_kv_heads,
        ".attention.key_length": config.head_dim,
        ".attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        ".rope.freq_base": config.rope_theta,
    }


def write_gguf(
    path: Path,
    config: ModelConfig,
    weights: Arrays,
    *,
    settings: Mapping[str, Any] | None = None,
    raw: Mapping[str, tuple[NDArray[Any], gguf.GGMLQuantizationType]] | None = None,
    extra: Arrays | None = None,
) -> Path:
    """A GGUF file as llama.cpp's converter would write it.

    ``settings`` add to or replace metadata (``None`` drops a key); ``raw`` gives encoded tensors by Hugging
    Face name in place of float32 ones; ``extra`` are further tensors by GGUF name.
    """
    writer = gguf.GGUFWriter(path, config.architecture)
    for key, value in {**gguf_settings(config), **(settings or {})}.items():
        full = config.architecture + key if key.startswith(".") else key
        if isinstance(value, int):
            writer.add_uint32(full, value)
        elif isinstance(value, float):
            writer.add_float32(full, value)
        elif isinstance(value, str):
            writer.add_string(full, value)
        elif isinstance(value, list):
            writer.add_array(full, value)
    for name, array in weights.items():
        if raw and name in raw:
            data, kind = raw[name]
            writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
            continue
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
        permuted = heads is not None and config.architecture in ("llama", "mistral")
        writer.add_tensor(gguf_name(name), interleaved(array, heads) if permuted else array)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hf_values(config: ModelConfig, **changes: Any) -> dict[str, Any]:
    """A config.json; a change to ``None`` drops the key."""
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[config.architecture]
    values = {
        "architectures": [f"{name}ForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def write_hf(folder: Path, config: ModelConfig, weights: Mapping[str, torch.Tensor], shards: int = 0) -> Path:
    """A folder with one safetensors file, or with that many shards and their index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_values(config)))
    if not shards:
        save_file(dict(weights), folder / "model.safetensors")
        return folder
    names = list(weights)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: weights[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
