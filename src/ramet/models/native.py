"""The Llama family on the native CPU kernels: a checkpoint's tensors, packed into a `_cpu.Decoder`.

Each matrix is packed into the one layout of its format, and nothing else is kept of it; the panels of the
gate and up projections, which are read together, take turns. What becomes of the types: Q4_0, Q4_1 and Q8_0
stay the blocks they are, but for the minima of Q4_1: what is left of them, measured from the middle of the
block's values, is rounded to bfloat16 (at most 1/32 of a step of the 4-bit grid where a block spans zero,
usually far less). Q4_K becomes Q4_1: its scales are rounded to float16 (1/2000 of themselves unless they are
tiny). Q5_0, Q5_1, Q5_K and Q6_K become Q8_0 (1/254 of the largest weight in a block of 32, unless it is
tiny). float16 and float32 are rounded to bfloat16. With dtype float32 or bfloat16 every type is decoded to
that instead.

Must not know: slots, requests, torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ramet.config import DType
from ramet.models.config import ModelConfig
from ramet.models.q4_k import q4_k_as_q4_1
from ramet.models.rotary import rotary_table
from ramet.models.stored import OnProgress, StoredTensor, StoredWeights, as_float32

if TYPE_CHECKING:
    from ramet.kernels import _cpu

ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
HEAD_ALIGN = 32  # heads are padded to a multiple of this in the KV pool
MAX_HEAD_DIM = 512

_MATRICES: Mapping[str, tuple[str, Callable[[ModelConfig], bool]]] = {
    "q": ("self_attn.q_proj", lambda config: config.qkv_bias),
    "k": ("self_attn.k_proj", lambda config: config.qkv_bias),
    "v": ("self_attn.v_proj", lambda config: config.qkv_bias),
    "output": ("self_attn.o_proj", lambda config: config.output_bias),
    "gate": ("mlp.gate_proj", lambda config: config.mlp_bias),
    "up": ("mlp.up_proj", lambda config: config.mlp_bias),
    "down": ("mlp.down_proj", lambda config: config.mlp_bias),
}
_GATED = ("gate", "up")  # read together
_NORMS = {
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
}
_HEAD_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
_FLOATS = frozenset({"F32", "F16", "BF16"})
_BLOCKS = frozenset({"Q4_0", "Q4_1", "Q8_0"})


def why_unsupported(config: ModelConfig) -> str | None:
    """Why the native kernels cannot compute this model; None if they can."""
    if config.architecture not in ARCHITECTURES:
        return f"they do not know the architecture {config.architecture!r}"
    if config.head_dim % 2 or config.head_dim > MAX_HEAD_DIM:
        return f"they need an even head_dim of at most {MAX_HEAD_DIM}, and the model's is {config.head_dim}"
    return None


def load_decoder(
    config: ModelConfig,
    weights: StoredWeights,
    kernels: ModuleType,
    team: _cpu.Team,
    *,
    dtype: DType = "auto",
    float32_kv: bool = False,
    isa: str | None = None,
    on_progress: OnProgress | None = None,
) -> _cpu.Decoder:
    """A decoder with all its weights, still without a KV pool.

    Args:
        config: a model that `why_unsupported` has nothing against.
        weights: its tensors.
        kernels: the extension `ramet.kernels._cpu`.
        team: the threads that compute.
        dtype: "auto" keeps the formats of the file where it can; else what weights are decoded to.
        float32_kv: keys, values and attention in float32; else bfloat16.
        isa: instruction set, by default the best one.
        on_progress: called after each layer.

    Raises:
        CorruptWeights: a tensor cannot be read.
        UnsupportedModel: a tensor's type cannot be read, or the rope scaling does not fit.
    """
    decoder: _cpu.Decoder = kernels.Decoder(
        team,
        isa or kernels.supported_isas()[0],
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        float32=float32_kv,
    )

    memory: _cpu.Arena = kernels.Arena()

    def matrix(name: str, memory: _cpu.Arena | None = memory) -> _cpu.Matrix:
        return pack_matrix(kernels, weights.stored(name), dtype, memory)

    def vector(name: str) -> NDArray[np.float32]:
        return as_float32(weights.stored(name))

    total = config.num_layers + 1
    for layer in range(config.num_layers):
        if on_progress is not None:
            on_progress(layer, total)
        prefix = f"model.layers.{layer}"
        packed: dict[str, _cpu.Matrix] = {}
        for role, (module, has_bias) in _MATRICES.items():
            packed[role] = matrix(f"{prefix}.{module}.weight", None if role in _GATED else memory)
            if has_bias(config):
                packed[role].set_bias(vector(f"{prefix}.{module}.bias"))
        packed |= zip(_GATED, kernels.interleave(*(packed[role] for role in _GATED), memory), strict=True)
        for role, of_role in packed.items():
            decoder.set_matrix(layer, role, of_role)
        for role, module in (_NORMS | _HEAD_NORMS if config.qk_norm else _NORMS).items():
            decoder.set_norm(layer, role, vector(f"{prefix}.{module}.weight"))
    embedding = matrix("model.embed_tokens.weight")
    head = embedding if config.tie_word_embeddings else matrix("lm_head.weight")
    decoder.set_ends(embedding, head, vector("model.norm.weight"))
    decoder.set_rotary(rotary_table(config))
    if on_progress is not None:
        on_progress(total, total)
    return decoder


def pack_matrix(
    kernels: ModuleType, stored: StoredTensor, dtype: DType = "auto", memory: _cpu.Arena | None = None
) -> _cpu.Matrix:
    """A matrix in the kernels' layout; the module docstring says what becomes of its type."""
    columns = stored.shape[-1]
    packed: _cpu.Matrix
    if dtype == "auto" and stored.type in _BLOCKS:
        packed = kernels.pack(stored.type, stored.data, columns, memory=memory)
    elif dtype == "auto" and stored.type == "Q4_K":
        packed = kernels.pack("Q4_1", q4_k_as_q4_1(stored.data), columns, memory=memory)
    elif dtype == "auto" and stored.type not in _FLOATS:
        packed = kernels.pack_q8(as_float32(stored), memory=memory)
    elif dtype != "float32" and stored.type in _FLOATS:
        packed = kernels.pack(stored.type, stored.data, columns, memory=memory)
    else:
        values = as_float32(stored).view(np.uint8)
        packed = kernels.pack("F32", values, columns, keep_f32=dtype == "float32", memory=memory)
    return packed
