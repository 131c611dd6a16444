"""What a decoder-only model looks like, read from a GGUF header or a ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    ``linear`` divides positions by ``factor``. ``llama3`` (Llama 3.1 model card) keeps high
    frequencies, divides low ones and blends between. ``yarn`` (arXiv 2309.00071) ramps between both
    and scales the magnitudes by ``attention_factor``. ``tensor`` is GGUF's
    ``rope_freqs.weight``: one divisor per frequency.
    """

    kind: Literal["linear", "llama3", "yarn", "tensor"]
    factor: float = 1.0
    original_context_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    frequency_divisors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and flags of one model of the Llama family."""

    architecture: str  # "llama", "mistral", "qwen2", "qwen3"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    qkv_bias: bool = False  # Qwen2; Llama with attention_bias
    output_bias: bool = False  # Llama with attention_bias
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen3: RMSNorm over each head of q and k
