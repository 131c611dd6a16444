"""Tensors from Hugging Face folders."""

from __future__ import annotations

import json

import pytest
import torch
from stored_models import TINY, random_weights, write_hf

from ramet.errors import CorruptWeights, ModelNotFound, UnsupportedModel
from ramet.models.weights import open_weights

NAME = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in random_weights(TINY).items()}


@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_come_as_they_are_stored(tmp_path, weights, shards, dtype):
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    opened = open_weights(write_hf(tmp_path / "m", TINY, weights, shards), TINY)
    assert list(opened.names()) == list(weights)
    for name in opened.names():
        assert torch.equal(opened.tensor(name), weights[name])


def test_what_the_model_does_not_need_is_ignored(tmp_path, weights):
    stored = {
        **weights,
        "lm_head.weight": torch.zeros(1),
        "model.layers.0.rotary_emb.inv_freq": torch.zeros(4),
    }
    opened = open_weights(write_hf(tmp_path / "m", TINY, stored), TINY)
    assert "lm_head.weight" not in opened.names()


def test_a_checkpoint_of_the_bare_decoder(tmp_path, weights):
    stored = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    opened = open_weights(write_hf(tmp_path / "m", TINY, stored), TINY)
    assert torch.equal(opened.tensor(NAME), weights[NAME])


# -------------------------------------------------------------------------------------------- bad files


def test_a_missing_tensor_is_named(tmp_path, weights):
    del weights[NAME]
    with pytest.raises(CorruptWeights, match=NAME):
        open_weights(write_hf(tmp_path / "m", TINY, weights), TINY)


def test_a_missing_shard_is_named(tmp_path, weights):
    folder = write_hf(tmp_path / "m", TINY, weights, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptWeights, match="model-00002-of-00002"):
        open_weights(folder, TINY)


def test_an_index_that_lies_or_is_damaged_is_reported(tmp_path, weights):
    folder = write_hf(tmp_path / "m", TINY, weights, shards=2)
    index = folder / "model.safetensors.index.json"
    lying = dict.fromkeys(weights, "model-00001-of-00002.safetensors")
    index.write_text(json.dumps({"weight_map": lying}))
    elsewhere = list(weights)[1]  # in the second shard
    with pytest.raises(CorruptWeights, match=r"model-00001-of-00002.*no readable tensor"):
        open_weights(folder, TINY).tensor(elsewhere)
    index.write_text("{}")
    with pytest.raises(CorruptWeights, match="weight_map"):
        open_weights(folder, TINY)


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_truncated_file_is_named(tmp_path, weights, kept):
    folder = write_hf(tmp_path / "m", TINY, weights)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptWeights, match=r"model\.safetensors is truncated"):
        open_weights(folder, TINY)


def test_shapes_and_types_are_checked(tmp_path, weights):
    weights[NAME] = torch.zeros(3, 3)
    other = "model.norm.weight"
    weights[other] = weights[other].to(torch.int32)
    opened = open_weights(write_hf(tmp_path / "m", TINY, weights), TINY)
    with pytest.raises(CorruptWeights, match=r"shape \(3, 3\), the config says \(16, 32\)"):
        opened.tensor(NAME)
    with pytest.raises(UnsupportedModel, match=r"model\.norm\.weight' has type torch\.int32"):
        opened.tensor(other)
    with pytest.raises(CorruptWeights, match="no tensor 'nothing'"):
        opened.tensor("nothing")


def test_a_folder_without_safetensors_is_reported(tmp_path):
    with pytest.raises(ModelNotFound, match=r"neither model\.safetensors nor"):
        open_weights(tmp_path, TINY)
