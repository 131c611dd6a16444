"""`ModelConfig` from the header of a GGUF file.

What has no key of its own (biases, tied embeddings, norms of q and k) shows in the tensor directory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.gguf_file import GgufFile
from ramet.models.config import ModelConfig, RopeScaling
from ramet.models.rope_scaling import yarn_magnitude

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")

_DEFAULT_ROPE_THETA = 10000.0


def config_from_gguf(path: Path) -> tuple[ModelConfig, int | None]:
    """The config, and the sliding window if there is one.

    Raises:
        ModelNotFound, UnsupportedModel, CorruptWeights: see `load_model_config`.
    """
    file = GgufFile(path)
    architecture = file.string("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{path}: architecture {architecture!r}; supported are {', '.join(ARCHITECTURES)}"
        )
    prefix = f"{architecture}."
    if file.integer(f"{prefix}expert_count", 0):
        raise UnsupportedModel(f"{path}: a mixture of experts ({prefix}expert_count)")
    hidden_size = file.integer(f"{prefix}embedding_length")
    num_heads = _uniform(file, f"{prefix}attention.head_count")
    if num_heads < 1:
        raise CorruptWeights(f"{path}: {prefix}attention.head_count must be positive, got {num_heads}")
    head_dim = file.integer(f"{prefix}attention.key_length", hidden_size // num_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if file.integer(prefix + key, head_dim) != head_dim:
            raise UnsupportedModel(
                f"{path}: {prefix}{key} is {file.integer(prefix + key)}, the keys have {head_dim} dimensions"
            )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CorruptWeights(f"{path} has no matrix token_embd.weight; download it again")
    context_length, scaling = _rope_scaling(file, prefix, head_dim)
    config = ModelConfig(
        architecture=architecture,
        vocab_size=embedding.shape[0],
        hidden_size=hidden_size,
        intermediate_size=_uniform(file, f"{prefix}feed_forward_length"),
        num_layers=file.integer(f"{prefix}block_count"),
        num_heads=num_heads,
        num_kv_heads=_uniform(file, f"{prefix}attention.head_count_kv", num_heads),
        head_dim=head_dim,
        context_length=context_length,
        rms_norm_eps=file.number(f"{prefix}attention.layer_norm_rms_epsilon"),
        rope_theta=file.number(f"{prefix}rope.freq_base", _DEFAULT_ROPE_THETA),
        rope_scaling=scaling,
        tie_word_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
    )
    window = file.integer(f"{prefix}attention.sliding_window", 0)
    return config, window or None


def _uniform(file: GgufFile, key: str, default: int | None = None) -> int:
    """An integer that some models give per layer; only equal layers are supported."""
    value = file.fields.get(key)
    if not isinstance(value, np.ndarray):
        return file.integer(key, default)
    if not value.size or (value != value[0]).any():
        raise UnsupportedModel(f"{file.path}: {key} differs between layers")
    return int(value[0])


def _rope_scaling(file: GgufFile, prefix: str, head_dim: int) -> tuple[int, RopeScaling | None]:
    """The context length, and how rotary frequencies are stretched."""
    context_length = file.integer(f"{prefix}context_length")
    kind = file.string(f"{prefix}rope.scaling.type", "none")
    # Converters before 2024 wrote scale_linear alone.
    factor = file.number(f"{prefix}rope.scaling.factor", file.number(f"{prefix}rope.scale_linear", 1.0))
    if kind == "none" and f"{prefix}rope.scale_linear" in file.fields:
        kind = "linear"
    divisors = file.tensors.get("rope_freqs.weight")
    if divisors is not None:
        if kind != "none":
            raise UnsupportedModel(
                f"{file.path}: both rope_freqs.weight and {prefix}rope.scaling.type {kind!r}"
            )
        if divisors.tensor_type.name != "F32" or divisors.shape != (head_dim // 2,):
            raise CorruptWeights(
                f"{file.path}: rope_freqs.weight must be {head_dim // 2} values of type F32, got shape "
                f"{divisors.shape} of type {divisors.tensor_type.name}"
            )
        values = file.data(divisors).view("<f4").tolist()
        return context_length, RopeScaling(kind="tensor", frequency_divisors=tuple(values))
    if kind == "none" or factor == 1.0:
        return context_length, None
    if factor <= 0.0:
        raise CorruptWeights(f"{file.path}: {prefix}rope.scaling.factor must be positive, got {factor}")
    if kind == "linear":
        return context_length, RopeScaling(kind="linear", factor=factor)
    if kind == "yarn":
        extra = file.number(f"{prefix}rope.scaling.attn_factor", 1.0)
        return context_length, RopeScaling(
            kind="yarn",
            factor=factor,
            original_context_length=file.integer(
                f"{prefix}rope.scaling.original_context_length", context_length
            ),
            beta_fast=file.number(f"{prefix}rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=file.number(f"{prefix}rope.scaling.yarn_beta_slow", 1.0),
            attention_factor=extra * yarn_magnitude(factor),
        )
    raise UnsupportedModel(
        f"{file.path}: {prefix}rope.scaling.type is {kind!r}; supported are none, linear and yarn"
    )
