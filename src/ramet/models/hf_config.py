"""`ModelConfig` from the ``config.json`` of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.json_file import read_json_object
from ramet.models.config import ModelConfig
from ramet.models.rope_scaling import read_rope

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def config_from_hf(folder: Path) -> tuple[ModelConfig, int | None]:
    """The config, and the sliding window if there is one.

    Raises:
        ModelNotFound, UnsupportedModel, CorruptWeights: see `load_model_config`.
    """
    path = folder / "config.json"
    values = read_json_object(path)
    architecture = _architecture(path, values)
    _refuse_unsupported(path, values)
    reader = _Reader(path, values)
    hidden_size = reader.integer("hidden_size")
    num_heads = reader.integer("num_attention_heads")
    context_length = reader.integer("max_position_embeddings")
    rope_theta, scaling = read_rope(path, values, context_length)
    if scaling is not None and scaling.kind == "linear":
        context_length = int(context_length * scaling.factor)
    elif scaling is not None and scaling.kind == "yarn":
        # Some files give the stretched context here, some the original one.
        context_length = max(context_length, int(scaling.original_context_length * scaling.factor))
    attention_bias = reader.flag("attention_bias")
    config = ModelConfig(
        architecture=architecture,
        vocab_size=reader.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=reader.integer("intermediate_size"),
        num_layers=reader.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=reader.integer("num_key_value_heads", num_heads),
        head_dim=reader.integer("head_dim", hidden_size // num_heads),
        context_length=context_length,
        rms_norm_eps=reader.number("rms_norm_eps"),
        rope_theta=rope_theta,
        rope_scaling=scaling,
        tie_word_embeddings=reader.flag("tie_word_embeddings"),
        # Qwen2 has them without saying so; Mistral never has.
        qkv_bias=architecture == "qwen2" or (attention_bias and architecture != "mistral"),
        output_bias=attention_bias and architecture in ("llama", "qwen3"),
        mlp_bias=architecture == "llama" and reader.flag("mlp_bias"),
        qk_norm=architecture == "qwen3",
    )
    return config, _window(reader, architecture)


def _architecture(path: Path, values: Mapping[str, Any]) -> str:
    given = values.get("architectures") or [values.get("model_type")]
    name = given[0] if isinstance(given, list) else given
    known = {**ARCHITECTURES, **{short: short for short in ARCHITECTURES.values()}}
    if not isinstance(name, str) or name not in known:
        raise UnsupportedModel(f"{path}: architecture {name!r}; supported are {', '.join(ARCHITECTURES)}")
    return known[name]


def _refuse_unsupported(path: Path, values: Mapping[str, Any]) -> None:
    quantization = values.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UnsupportedModel(
            f"{path}: weights quantized with {method or 'an unknown method'!r} (quantization_config); use "
            "the original weights or a GGUF file"
        )
    activation = values.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModel(f"{path}: hidden_act {activation!r}; supported is silu")
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if values.get(key):
            raise UnsupportedModel(f"{path}: a mixture of experts ({key})")


def _window(reader: _Reader, architecture: str) -> int | None:
    if reader.values.get("sliding_window") is None:
        return None
    layers = reader.values.get("layer_types")
    if isinstance(layers, list):
        in_use = "sliding_attention" in layers
    else:
        # Llama has no window, whatever stands there. Qwen has one only if it says so.
        in_use = architecture == "mistral" or (
            architecture.startswith("qwen") and reader.flag("use_sliding_window")
        )
    return reader.integer("sliding_window") if in_use else None


class _Reader:
    """Values of a config.json, with errors that name key and file."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise CorruptWeights(f"{self.path} lacks the key {key!r}; take the file from the original model")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CorruptWeights(f"{self.path}: {key} must be a positive integer, got {value!r}")
        return value

    def number(self, key: str) -> float:
        value = self._get(key, None)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CorruptWeights(f"{self.path}: {key} must be a number, got {value!r}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._get(key, False)
        if not isinstance(value, bool):
            raise CorruptWeights(f"{self.path}: {key} must be true or false, got {value!r}")
        return value
