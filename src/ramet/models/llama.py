"""The Llama family: Llama, Mistral, Qwen2, Qwen3, SmolLM. Their differences are flags of `ModelConfig`.

Invariant: everything between rows happens in attention; all else treats each row on its own.
Must not know: requests, sampling, where weights come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ramet.attention.base import AttentionBackend, ForwardBatch, KVStore
from ramet.layers.activation import silu_and_multiply
from ramet.layers.linear import linear
from ramet.layers.norm import rms_norm
from ramet.layers.rope import RotaryTable, rotate
from ramet.models.config import ModelConfig
from ramet.models.frequencies import rotary_frequencies
from ramet.models.stored import OnProgress, StoredWeights
from ramet.models.torch_weights import tensor


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer. Several that read the same input are stacked into one."""

    weight: torch.Tensor  # [out_features, in_features]
    bias: torch.Tensor | None  # [out_features]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The parameters of one layer."""

    input_norm: torch.Tensor  # [hidden_size]
    qkv: Projection  # queries, keys and values, stacked
    query_norm: torch.Tensor | None  # [head_dim]
    key_norm: torch.Tensor | None  # [head_dim]
    output: Projection
    post_attention_norm: torch.Tensor  # [hidden_size]
    gate_up: Projection  # stacked
    down: Projection


class LlamaModel:
    """A decoder of the Llama family; satisfies `CausalModel`."""

    def __init__(
        self,
        config: ModelConfig,
        weights: StoredWeights,
        *,
        dtype: torch.dtype,
        device: torch.device,
        on_progress: OnProgress | None = None,
    ) -> None:
        """
        Raises:
            CorruptWeights: a tensor cannot be read.
            UnsupportedModel: the rope scaling does not fit the model.
        """
        self._config = config
        loader = _Loader(config, weights, dtype, device)
        total = config.num_layers + 1
        self._embedding = loader.load("model.embed_tokens.weight")
        self._layers: list[DecoderLayer] = []
        for index in range(config.num_layers):
            if on_progress is not None:
                on_progress(index, total)
            self._layers.append(loader.layer(index))
        self._norm = loader.load("model.norm.weight")
        self._head = self._embedding if config.tie_word_embeddings else loader.load("lm_head.weight")
        frequencies, magnitude = rotary_frequencies(config)
        self._rotary = RotaryTable(torch.from_numpy(frequencies), magnitude, config.context_length, device)
        if on_progress is not None:
            on_progress(total, total)

    @property
    def config(self) -> ModelConfig:
        return self._config

    def forward(self, batch: ForwardBatch, attention: AttentionBackend, store: KVStore) -> torch.Tensor:
        eps = self._config.rms_norm_eps
        cos_sin = self._rotary.lookup(batch.positions)
        hidden = self._embedding.index_select(0, batch.input_ids)
        for index, layer in enumerate(self._layers):
            x = rms_norm(hidden, layer.input_norm, eps)
            queries, keys, values = self._split_heads(layer.qkv(x))
            if layer.query_norm is not None and layer.key_norm is not None:
                queries = rms_norm(queries, layer.query_norm, eps)
                keys = rms_norm(keys, layer.key_norm, eps)
            # Written before attention reads: rows of one step see each other's keys
            store.write(index, batch.slot_ids, rotate(keys, cos_sin), values)
            attended = attention.forward(rotate(queries, cos_sin), *store.layer(index), batch)
            hidden = hidden + layer.output(attended)
            x = rms_norm(hidden, layer.post_attention_norm, eps)
            hidden = hidden + layer.down(silu_and_multiply(layer.gate_up(x)))
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(rms_norm(hidden, self._norm, self._config.rms_norm_eps), self._head).float()

    def _split_heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config = self._config
        heads = qkv.view(qkv.shape[0], -1, config.head_dim)
        keys_from, values_from = config.num_heads, config.num_heads + config.num_kv_heads
        return heads[:, :keys_from], heads[:, keys_from:values_from], heads[:, values_from:]


class _Loader:
    """Takes tensors from a checkpoint and casts each one once, so that no second copy stays."""

    def __init__(
        self, config: ModelConfig, weights: StoredWeights, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._config = config
        self._weights = weights
        self._dtype = dtype
        self._device = device

    def load(self, name: str) -> torch.Tensor:
        return tensor(self._weights.stored(name)).to(device=self._device, dtype=self._dtype).contiguous()

    def projection(self, prefix: str, *parts: str, bias: bool) -> Projection:
        """The linear layers ``prefix.part``, stacked in order."""
        weight = torch.cat([self.load(f"{prefix}.{part}.weight") for part in parts])
        return Projection(
            weight, torch.cat([self.load(f"{prefix}.{part}.bias") for part in parts]) if bias else None
        )

    def layer(self, index: int) -> DecoderLayer:
        config, prefix = self._config, f"model.layers.{index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        return DecoderLayer(
            input_norm=self.load(f"{prefix}.input_layernorm.weight"),
            qkv=self.projection(attention, "q_proj", "k_proj", "v_proj", bias=config.qkv_bias),
            query_norm=self.load(f"{attention}.q_norm.weight") if config.qk_norm else None,
            key_norm=self.load(f"{attention}.k_norm.weight") if config.qk_norm else None,
            output=self.projection(attention, "o_proj", bias=config.output_bias),
            post_attention_norm=self.load(f"{prefix}.post_attention_layernorm.weight"),
            gate_up=self.projection(mlp, "gate_proj", "up_proj", bias=config.mlp_bias),
            down=self.projection(mlp, "down_proj", bias=config.mlp_bias),
        )
