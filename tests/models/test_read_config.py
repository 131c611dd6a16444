"""Configs from GGUF headers and config.json: what is read, and what is refused."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from stored_models import TINY, hf_values, random_weights, write_gguf

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel
from ramet.models.config import ModelConfig, RopeScaling
from ramet.models.weights import load_model_config


def from_hf(folder: Path, config: ModelConfig = TINY, **changes) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(hf_values(config, **changes)))
    return load_model_config(folder)


def from_gguf(folder: Path, config: ModelConfig = TINY, *, extra=None, **settings) -> ModelConfig:
    keys = {f".{key}": value for key, value in settings.items()}
    weights = random_weights(config)
    return load_model_config(write_gguf(folder / "m.gguf", config, weights, settings=keys, extra=extra))


VARIANTS = {
    "llama": TINY,
    "llama with biases": replace(TINY, qkv_bias=True, output_bias=True, mlp_bias=True),
    "mistral": replace(TINY, architecture="mistral", tie_word_embeddings=False),
    "qwen2": replace(TINY, architecture="qwen2", qkv_bias=True),
    "qwen3": replace(TINY, architecture="qwen3", qk_norm=True, head_dim=16),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_both_formats_tell_the_same(tmp_path, config):
    biases = {"attention_bias": config.output_bias, "mlp_bias": config.mlp_bias}
    assert from_hf(tmp_path, config, **biases) == config
    read = from_gguf(tmp_path, config)
    assert replace(read, rms_norm_eps=config.rms_norm_eps) == config
    assert read.rms_norm_eps == pytest.approx(config.rms_norm_eps)


def test_what_config_json_may_leave_out(tmp_path):
    config = from_hf(
        tmp_path, num_key_value_heads=None, head_dim=None, tie_word_embeddings=None, rope_theta=None
    )
    assert (config.num_kv_heads, config.head_dim) == (TINY.num_heads, 8)
    assert not config.tie_word_embeddings
    assert config.rope_theta == 10000.0


def test_what_a_gguf_header_may_leave_out(tmp_path):
    settings = {"attention.key_length": None, "rope.freq_base": None}
    assert from_gguf(tmp_path, **settings).head_dim == 8


@pytest.mark.model
def test_the_bundled_model():
    from ramet.store import resolve_model

    config = load_model_config(resolve_model(None))
    assert (config.architecture, config.num_layers, config.hidden_size) == ("llama", 30, 576)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.context_length, config.rope_theta, config.vocab_size) == (8192, 100000.0, 49152)
    assert config.tie_word_embeddings


# ------------------------------------------------------------------------------------------ rope scaling

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("given", "expected", "context_length"),
    [
        ({"rope_type": "default"}, None, 64),
        ({"type": "linear", "factor": 2.0}, RopeScaling(kind="linear", factor=2.0), 128),
        (
            LLAMA3,
            RopeScaling(
                kind="llama3",
                factor=8.0,
                original_context_length=16,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
            ),
            64,
        ),
        (
            {"rope_type": "yarn", "factor": 4.0},
            RopeScaling(
                kind="yarn",
                factor=4.0,
                original_context_length=64,
                attention_factor=0.1 * math.log(4.0) + 1.0,
            ),
            256,
        ),
        (
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 20,
                "attention_factor": 1.5,
            },
            RopeScaling(
                kind="yarn", factor=4.0, original_context_length=16, beta_fast=20.0, attention_factor=1.5
            ),
            64,
        ),
    ],
)
def test_rope_scaling_of_config_json(tmp_path, spelling, given, expected, context_length):
    if spelling == "rope_parameters":  # transformers 5 keeps theta in there, too
        config = from_hf(tmp_path, rope_theta=None, rope_parameters={**given, "rope_theta": 5000.0})
        assert config.rope_theta == 5000.0
    else:
        config = from_hf(tmp_path, rope_scaling=given)
    assert config.rope_scaling == expected
    assert config.context_length == context_length


def test_rope_scaling_of_gguf(tmp_path):
    assert from_gguf(tmp_path, **{"rope.scaling.type": "none"}).rope_scaling is None
    linear = from_gguf(tmp_path, **{"rope.scaling.type": "linear", "rope.scaling.factor": 2.0})
    assert linear.rope_scaling == RopeScaling(kind="linear", factor=2.0)
    old = from_gguf(tmp_path, **{"rope.scale_linear": 4.0})
    assert old.rope_scaling == RopeScaling(kind="linear", factor=4.0)
    yarn = from_gguf(
        tmp_path,
        **{
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
        },
    ).rope_scaling
    assert yarn is not None
    assert (yarn.kind, yarn.factor, yarn.original_context_length) == ("yarn", 4.0, 16)
    assert yarn.attention_factor == pytest.approx(0.1 * math.log(4.0) + 1.0)


def test_frequencies_given_as_a_tensor(tmp_path):
    divisors = np.array([1, 1, 2, 8], dtype=np.float32)
    scaling = from_gguf(tmp_path, extra={"rope_freqs.weight": divisors}).rope_scaling
    assert scaling == RopeScaling(kind="tensor", frequency_divisors=(1.0, 1.0, 2.0, 8.0))
    with pytest.raises(CorruptWeights, match=r"rope_freqs\.weight must be 4 values"):
        from_gguf(tmp_path, extra={"rope_freqs.weight": divisors[:3]})


# ---------------------------------------------------------------------------------------- sliding windows


@pytest.mark.parametrize(
    ("architecture", "changes", "context_length"),
    [
        ("mistral", {"sliding_window": 16}, 16),
        ("mistral", {"sliding_window": 4096}, 64),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, 64),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True}, 16),
        ("qwen3", {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}, 16),
        ("qwen3", {"sliding_window": 16, "layer_types": ["full_attention"] * 2}, 64),
    ],
)
def test_the_context_ends_where_a_window_would_begin_to_slide(
    tmp_path, caplog, architecture, changes, context_length
):
    with caplog.at_level(logging.WARNING):
        config = from_hf(tmp_path, replace(TINY, architecture=architecture), **changes)
    assert config.context_length == context_length
    assert ("last 16 positions" in caplog.text) == (context_length == 16)


def test_a_window_in_a_gguf_header(tmp_path):
    assert from_gguf(tmp_path, **{"attention.sliding_window": 32}).context_length == 32


# ----------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"architectures": None, "model_type": "gemma"}, "gemma"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq.*quantization_config"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differ between layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"head_dim": 7}, "even head_dim"),
    ],
)
def test_what_the_model_code_does_not_do_is_refused_by_name(tmp_path, changes, named):
    with pytest.raises(UnsupportedModel, match=named):
        from_hf(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": None}, r"config\.json lacks the key 'hidden_size'"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"rope_scaling": {"type": "linear"}}, "'factor'"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "original_max_position_embeddings"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "low_freq_factor must be less than high"),
        ({"rope_scaling": "yarn"}, "rope_scaling must be an object"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"attention_bias": "yes"}, "attention_bias must be true or false"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path, changes, named):
    with pytest.raises(CorruptWeights, match=named):
        from_hf(tmp_path, **changes)


def test_a_config_that_is_no_json_or_not_there(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptWeights, match=r"config\.json is not valid JSON"):
        load_model_config(tmp_path)
    with pytest.raises(ModelNotFound, match="nowhere"):
        load_model_config(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"expert_count": 8}, UnsupportedModel, "mixture of experts"),
        ({"rope.dimension_count": 4}, UnsupportedModel, r"rope\.dimension_count is 4"),
        ({"attention.value_length": 4}, UnsupportedModel, "value_length"),
        ({"feed_forward_length": [256, 128]}, UnsupportedModel, "differs between layers"),
        (
            {"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0},
            UnsupportedModel,
            "'longrope'",
        ),
        ({"block_count": None}, CorruptWeights, r"lacks the metadata key 'llama\.block_count'"),
        ({"block_count": "two"}, CorruptWeights, r"block_count' must be an integer, got str"),
        ({"context_length": 0}, CorruptWeights, "context_length must be positive"),
    ],
)
def test_gguf_headers_that_are_refused(tmp_path, settings, error, named):
    with pytest.raises(error, match=named):
        from_gguf(tmp_path, **settings)


def test_other_architectures_in_gguf_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match="'gemma3'; supported are llama"):
        load_model_config(tmp_path / "m.gguf")
