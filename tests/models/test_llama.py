"""Logits of tiny random models against transformers, and what a model refuses."""

import os

import pytest
import torch

from attention.plans import Sequence, Step, model_input
from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.errors import UnsupportedModel
from ramet.models.config import ModelConfig, RopeScaling
from ramet.models.frequencies import rotary_frequencies
from ramet.models.llama import LlamaModel
from ramet.models.registry import MODELS, model_constructor
from ramet.runner.kv_pool import KVPool
from runner.tiny_models import CPU, DictWeights, random_weights, tiny_config

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 199,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}

# name: (transformers' config class, its extra arguments, ours)
ROPE = {"rope_theta": 10000.0}
CASES = {
    "llama": ("LlamaConfig", {}, {}),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True}, {"tie_word_embeddings": True}),
    "llama-biases": (
        "LlamaConfig",
        {"attention_bias": True, "mlp_bias": True},
        {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    ),
    "llama-linear": (
        "LlamaConfig",
        {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}},
        {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    ),
    "llama-llama3": (
        "LlamaConfig",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        {"rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context_length=64)},
    ),
    "llama-yarn": (
        "LlamaConfig",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        {
            "rope_scaling": RopeScaling(
                kind="yarn", factor=4.0, original_context_length=64, attention_factor=1.138629436
            )
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": None}, {}),
    "qwen2": ("Qwen2Config", {}, {"qkv_bias": True}),
    "qwen3": ("Qwen3Config", {"attention_bias": False}, {"qk_norm": True}),
}


def oracle(config_class: str, extra: dict) -> torch.nn.Module:
    config = getattr(transformers, config_class)(**(SIZES | {"rope_parameters": ROPE} | extra))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases begin as ones and zeros
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def our_config(architecture: str, flags: dict) -> ModelConfig:
    return tiny_config(architecture=architecture, context_length=256, **flags)


def all_logits(model: LlamaModel, token_ids: list[int]) -> torch.Tensor:
    """Logits of every position, computed in one step."""
    attention, pool = ReferenceAttention(), KVPool(model.config, 256, torch.float32, CPU)
    step = Step(Sequence(token_ids, list(range(len(token_ids)))), 0, len(token_ids))
    with torch.inference_mode():
        batch = attention.plan(ForwardBatch.from_input(model_input([step]), CPU))
        return model.logits(model.forward(batch, attention, pool))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case):
    config_class, extra, flags = CASES[case]
    theirs = oracle(config_class, extra)
    config = our_config(case.split("-")[0], flags)
    ours = model_constructor(config.architecture)(
        config, DictWeights(theirs.state_dict()), dtype=torch.float32, device=CPU
    )
    token_ids = torch.randint(0, 199, (150,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(token_ids[None]).logits[0]
    logits = all_logits(ours, token_ids.tolist())
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_frequency_divisors_of_a_gguf_file():
    """Divisors that spell out linear scaling give what linear scaling gives."""
    token_ids = list(range(100))
    weights = random_weights(tiny_config())
    logits = [
        all_logits(
            LlamaModel(tiny_config(rope_scaling=scaling), weights, dtype=torch.float32, device=CPU), token_ids
        )
        for scaling in (
            RopeScaling(kind="tensor", frequency_divisors=(4.0,) * 16),
            RopeScaling(kind="linear", factor=4.0),
        )
    ]
    assert torch.equal(logits[0], logits[1])


def test_wrong_number_of_frequency_divisors_is_refused():
    config = tiny_config(rope_scaling=RopeScaling(kind="tensor", frequency_divisors=(1.0,) * 15))
    with pytest.raises(UnsupportedModel, match="15 values, but head_dim 32 needs 16"):
        LlamaModel(config, random_weights(config), dtype=torch.float32, device=CPU)


def test_frequency_divisors_of_zero_are_refused():
    config = tiny_config(rope_scaling=RopeScaling(kind="tensor", frequency_divisors=(1.0,) * 15 + (0.0,)))
    with pytest.raises(UnsupportedModel, match=r"positive values, the smallest is 0\.0"):
        rotary_frequencies(config)


def test_loading_reports_progress():
    seen = []
    config = tiny_config(num_layers=3)
    LlamaModel(
        config,
        random_weights(config),
        dtype=torch.float32,
        device=CPU,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(0, 4), (1, 4), (2, 4), (4, 4)]


def test_an_unknown_architecture_is_named_with_the_known_ones():
    with pytest.raises(UnsupportedModel, match=r"'mamba' .*known: llama, mistral, qwen2, qwen3"):
        model_constructor("mamba")
    assert all(model_constructor(name) is MODELS[name] for name in MODELS)
