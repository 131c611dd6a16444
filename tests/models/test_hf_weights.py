"""Tensors from Hugging Face folders."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_models import TINY, loaded, random_weights, write_hf

from ramet.errors import CorruptWeights, ModelError, ModelNotFound, UnsupportedModel
from ramet.models.stored import as_float32
from ramet.models.weights import open_weights

NAME = "model.layers.1.self_attn.k_proj.weight"
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def split_file(path: Path) -> tuple[bytes, bytes]:
    """The header of a safetensors file, without the blanks that fill it up, and the data behind it."""
    content = path.read_bytes()
    end = 8 + struct.unpack_from("<Q", content)[0]
    return content[8:end].rstrip(), content[end:]


def join_file(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


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
        stored = opened.stored(name)
        assert (stored.type, stored.shape) == (TYPES[dtype], weights[name].shape)
        assert torch.equal(loaded(opened, name, dtype), weights[name])
        assert np.array_equal(as_float32(stored), weights[name].float().numpy())


def test_rows_of_a_matrix_and_the_one_of_a_vector(tmp_path, weights):
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    opened = open_weights(write_hf(tmp_path / "m", TINY, weights), TINY)
    assert opened.stored(NAME).data.shape == (16, 64)
    assert opened.stored("model.norm.weight").data.shape == (1, 64)


def test_a_file_whose_tensors_are_not_aligned(tmp_path, weights):
    """The format asks for no alignment; some writers pad the header, some do not."""
    path = write_hf(tmp_path / "m", TINY, weights) / "model.safetensors"
    header, data = split_file(path)
    join_file(path, header + b" " * (1 - len(header) % 2), data)  # of odd length
    opened = open_weights(tmp_path / "m", TINY)
    for name in opened.names():
        assert torch.equal(loaded(opened, name), weights[name])
        assert np.array_equal(as_float32(opened.stored(name)), weights[name].numpy())


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
    assert torch.equal(loaded(opened, NAME), weights[NAME])


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
    with pytest.raises(CorruptWeights, match=r"model-00001-of-00002.*has no tensor"):
        open_weights(folder, TINY).stored(elsewhere)
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


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 64]},  # another tensor lies there
        {"data_offsets": [10**9, 10**9 + 2048]},
        {"data_offsets": [2048, 0]},
        {"shape": [16, 33]},
        {"shape": [2**62, 4]},
        {"dtype": "F31"},
        {"dtype": None},
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, weights, change):
    folder = write_hf(tmp_path / "m", TINY, weights)
    path = folder / "model.safetensors"
    header, data = split_file(path)
    entries = json.loads(header)
    entries[NAME] |= change
    join_file(path, json.dumps(entries).encode(), data)
    with pytest.raises(CorruptWeights, match=r"model\.safetensors is truncated or damaged"):
        open_weights(folder, TINY)


def test_a_tensor_described_by_a_list_is_refused(tmp_path, weights):
    path = write_hf(tmp_path / "m", TINY, weights) / "model.safetensors"
    header, data = split_file(path)
    entries = json.loads(header)
    entry = entries[NAME]
    entries[NAME] = [entry["dtype"], entry["shape"], entry["data_offsets"]]
    join_file(path, json.dumps(entries).encode(), data)
    with pytest.raises(CorruptWeights, match=rf"{NAME}' is not described by an object"):
        open_weights(tmp_path / "m", TINY)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_to_the_header_is_reported_as_a_model_error(tmp_path, data):
    folder = tmp_path / "m"
    path = folder / "model.safetensors"
    if not (whole := tmp_path / "whole").exists():
        tensors = {name: torch.from_numpy(array) for name, array in random_weights(TINY).items()}
        whole.write_bytes((write_hf(folder, TINY, tensors) / "model.safetensors").read_bytes())
    damaged = bytearray(whole.read_bytes())
    end_of_header = 8 + struct.unpack_from("<Q", damaged)[0]
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, end_of_header - 1))] = data.draw(
            st.sampled_from(b'0129"\\,:[]{}\xff\0F')
        )
    path.write_bytes(damaged)
    with contextlib.suppress(ModelError):  # anything else fails the test
        opened = open_weights(folder, TINY)
        for name in opened.names():
            as_float32(opened.stored(name))


def test_shapes_and_types_are_checked(tmp_path, weights):
    weights[NAME] = torch.zeros(3, 3)
    other = "model.norm.weight"
    weights[other] = weights[other].to(torch.int32)
    opened = open_weights(write_hf(tmp_path / "m", TINY, weights), TINY)
    with pytest.raises(CorruptWeights, match=r"shape \(3, 3\), the config says \(16, 32\)"):
        opened.stored(NAME)
    with pytest.raises(
        UnsupportedModel, match=r"model\.norm\.weight' has type I32; supported are F32, F16, BF16"
    ):
        opened.stored(other)
    with pytest.raises(CorruptWeights, match="no tensor 'nothing'"):
        opened.stored("nothing")


def test_a_folder_without_safetensors_is_reported(tmp_path):
    with pytest.raises(ModelNotFound, match=r"neither model\.safetensors nor"):
        open_weights(tmp_path, TINY)
