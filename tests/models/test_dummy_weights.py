"""A model's shape without its files."""

import json

import numpy as np
import pytest

from attention.plans import execute
from models.stored_models import hf_values
from ramet.config import ModelOptions
from ramet.errors import CorruptWeights
from ramet.models.dummy_weights import DummyWeights
from ramet.models.stored import as_float32
from ramet.models.tensor_shapes import tensor_shapes
from ramet.runner.build import build_runner
from runner.test_build import STEP
from runner.tiny_models import tiny_config


def test_there_is_every_tensor_the_config_asks_for():
    config = tiny_config(qkv_bias=True, tie_word_embeddings=False)
    weights = DummyWeights(config)
    assert {name: weights.stored(name).shape for name in weights.names()} == tensor_shapes(config)
    with pytest.raises(CorruptWeights, match="no tensor 'other'"):
        weights.stored("other")


def test_values_are_those_of_a_fresh_model():
    weights = DummyWeights(tiny_config())
    assert (as_float32(weights.stored("model.norm.weight")) == 1).all()
    table = as_float32(weights.stored("model.embed_tokens.weight"))
    assert 0.015 < table.std() < 0.025 and abs(table.mean()) < 0.002
    assert len(np.unique(table, axis=0)) == len(table)
    prefix = "model.layers.0.mlp"
    up, gate = (as_float32(weights.stored(f"{prefix}.{name}_proj.weight")) for name in ("up", "gate"))
    assert not np.array_equal(up, gate)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_a_runner_needs_the_config_only(tmp_path, kernels):
    (tmp_path / "config.json").write_text(json.dumps(hf_values(tiny_config())))
    options = ModelOptions(device="cpu", kernels=kernels, load_format="dummy")
    tokens = []
    for _ in range(2):
        runner = build_runner(tmp_path, options, max_kv_tokens=70)
        tokens.append(execute(runner, STEP).token_ids[0])
        runner.close()
    assert tokens[0] == tokens[1] and 0 <= tokens[0] < runner.vocab_size
