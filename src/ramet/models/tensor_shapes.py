"""The tensors a model of the Llama family consists of, by their Hugging Face names."""

from __future__ import annotations

from ramet.models.config import ModelConfig


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor. Matrices are ``[outputs, inputs]``; ``lm_head`` only if untied."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        projections = (
            ("self_attn.q_proj", (queries, hidden), config.qkv_bias),
            ("self_attn.k_proj", (keys, hidden), config.qkv_bias),
            ("self_attn.v_proj", (keys, hidden), config.qkv_bias),
            ("self_attn.o_proj", (hidden, queries), config.output_bias),
            ("mlp.gate_proj", (inner, hidden), config.mlp_bias),
            ("mlp.up_proj", (inner, hidden), config.mlp_bias),
            ("mlp.down_proj", (hidden, inner), config.mlp_bias),
        )
        for name, shape, has_bias in projections:
            shapes[f"{prefix}{name}.weight"] = shape
            if has_bias:
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        if config.qk_norm:
            shapes[prefix + "self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[prefix + "self_attn.k_norm.weight"] = (config.head_dim,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes
