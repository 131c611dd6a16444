"""The Llama family: Llama, Mistral, Qwen2, Qwen3, SmolLM. Their differences are flags of `ModelConfig`.

Invariant: everything between rows happens in attention; all else, which `Operations` computes, treats each
row on its own.
Must not know: requests, sampling, where weights come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ramet.attention.base import AttentionBackend, ForwardBatch, KVStore
from ramet.layers.base import Operations
from ramet.layers.reference import TorchOperations
from ramet.layers.rope import RotaryTable
from ramet.models.config import ModelConfig
from ramet.models.frequencies import rotary_frequencies
from ramet.models.stored import OnProgress, StoredWeights
from ramet.models.tensor_shapes import tensor_shapes
from ramet.models.torch_weights import TensorLoader


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer. Several that read the same input are stacked into one."""

    weight: torch.Tensor  # [out_features, in_features]
    bias: torch.Tensor | None  # [out_features]


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
        operations: Operations | None = None,
    ) -> None:
        """
        Args:
            operations: computes all but attention; by default torch does.

        Raises:
            CorruptWeights: a tensor cannot be read.
            UnsupportedModel: the rope scaling does not fit the model.
        """
        self._config = config
        self._operations: Operations = operations or TorchOperations()
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
        compute, eps = self._operations, self._config.rms_norm_eps
        cos_sin = self._rotary.lookup(batch.positions)
        # The norm after each layer is the one that the next begins with, or the model's last
        norms = [*(layer.input_norm for layer in self._layers), self._norm]
        hidden = self._embedding.index_select(0, batch.input_ids)
        x = compute.norm(hidden, norms[0], eps)
        for index, layer in enumerate(self._layers):
            keys, values = store.layer(index)
            # Written before attention reads: rows of one step see each other's keys
            queries = compute.rotate_and_write(
                self._project(layer.qkv, x),
                cos_sin,
                batch.slot_ids,
                keys,
                values,
                query_norm=layer.query_norm,
                key_norm=layer.key_norm,
                eps=eps,
            )
            attended = self._project(layer.output, attention.forward(queries, keys, values, batch))
            hidden, x = compute.add_and_norm(hidden, attended, layer.post_attention_norm, eps)
            fed = self._project(layer.down, compute.silu_and_multiply(self._project(layer.gate_up, x)))
            hidden, x = compute.add_and_norm(hidden, fed, norms[index + 1], eps)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._operations.linear(hidden, self._head).float()

    def _project(self, projection: Projection, x: torch.Tensor) -> torch.Tensor:
        return self._operations.linear(x, projection.weight, projection.bias)


class _Loader:
    """Makes the parameters of layers out of a checkpoint."""

    def __init__(
        self, config: ModelConfig, weights: StoredWeights, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._config = config
        self._tensors = TensorLoader(weights, tensor_shapes(config), dtype=dtype, device=device)

    def load(self, *names: str) -> torch.Tensor:
        return self._tensors.load(*names)

    def projection(self, prefix: str, *parts: str, bias: bool) -> Projection:
        """The linear layers ``prefix.part``, stacked in order."""
        weight = self.load(*(f"{prefix}.{part}.weight" for part in parts))
        return Projection(weight, self.load(*(f"{prefix}.{part}.bias" for part in parts)) if bias else None)

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
