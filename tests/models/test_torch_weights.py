"""Tensors of a model on its device: what they hold, and what memory is needed to get them there."""

from __future__ import annotations

import logging
import tracemalloc
import weakref
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from stored_models import TINY, loaded, write_gguf, write_hf
from stored_models import random_weights as random_arrays

from ramet.models import torch_weights
from ramet.models.dummy_weights import DummyWeights
from ramet.models.llama import LlamaModel
from ramet.models.stored import StoredTensor, as_float32
from ramet.models.tensor_shapes import tensor_shapes
from ramet.models.torch_weights import READERS, TensorLoader
from ramet.models.weights import open_weights
from runner.counted_memory import CountedMemory
from runner.tiny_models import CPU, random_weights, tiny_config

CONFIG = tiny_config(qkv_bias=True, tie_word_embeddings=False)
ATTENTION = "model.layers.0.self_attn"
PARTS = [f"{ATTENTION}.{part}_proj.weight" for part in "qkv"]


def loader_of(weights, config=CONFIG, dtype=torch.float32, device=CPU):
    return TensorLoader(weights, tensor_shapes(config), dtype=dtype, device=device)


class WatchedWeights:
    """Random values made when they are asked for; knows the tensors that are still alive."""

    def __init__(self, config):
        self._shapes = tensor_shapes(config)
        self.alive = weakref.WeakSet()
        self.most_alive = 0

    def names(self):
        return self._shapes

    def stored(self, name):
        values = np.random.default_rng(0).standard_normal(self._shapes[name], dtype=np.float32)
        tensor = StoredTensor.of(values.shape, "F32", values.reshape(-1).view(np.uint8))
        self.alive.add(Held(tensor.data))
        self.most_alive = max(self.most_alive, len(self.alive))
        return tensor


class Held:
    """Something that dies with an array."""

    def __init__(self, array):
        weakref.finalize(array, lambda kept: None, self)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reader_bytes", [1, 1000, 2**22])
def test_layers_are_stacked_in_order_whatever_the_pieces(monkeypatch, dtype, reader_bytes):
    monkeypatch.setattr(torch_weights, "READER_BYTES", reader_bytes)
    weights = random_weights(CONFIG)
    loader = loader_of(weights, dtype=dtype)
    stacked = loader.load(*PARTS)
    assert stacked.dtype == dtype and stacked.is_contiguous()
    assert torch.equal(stacked, torch.cat([weights.tensors[name] for name in PARTS]).to(dtype))
    biases = [name.replace("weight", "bias") for name in PARTS]
    assert torch.equal(loader.load(*biases), torch.cat([weights.tensors[name] for name in biases]).to(dtype))


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q8_0], ids=lambda kind: kind.name)
def test_blocks_are_decoded_in_pieces(tmp_path, monkeypatch, kind):
    name = "model.layers.0.mlp.down_proj.weight"
    _, type_size = gguf.GGML_QUANT_SIZES[kind]
    shape = tensor_shapes(TINY)[name]
    num_bytes = gguf.quants.quant_shape_to_byte_shape(shape, kind)
    blocks = np.random.default_rng(0).integers(0, 60, num_bytes, dtype=np.uint8)  # so that scales are finite
    assert blocks.shape[-1] % type_size == 0
    path = write_gguf(tmp_path / "m.gguf", TINY, random_arrays(TINY), raw={name: (blocks, kind)})
    opened = open_weights(path, TINY)
    monkeypatch.setattr(torch_weights, "READER_BYTES", 3 * 4 * shape[-1])
    assert torch.equal(loaded(opened, name), torch.from_numpy(as_float32(opened.stored(name))))


def test_decoding_is_said_once_with_the_sizes(tmp_path, caplog):
    config = replace(TINY, intermediate_size=8192)
    arrays = random_arrays(config)
    raw = {
        name: (gguf.quants.quantize(array, Type.Q8_0), Type.Q8_0)
        for name, array in arrays.items()
        if "down_proj" in name
    }
    opened = open_weights(write_gguf(tmp_path / "m.gguf", config, arrays, raw=raw), config)
    with caplog.at_level(logging.INFO, logger="ramet.models.torch_weights"):
        loader = loader_of(opened, config, torch.bfloat16)
        for name in opened.names():
            assert caplog.text == ""
            loader.load(name)
    assert len(caplog.records) == 1  # 2 matrices of 32 x 8192 values: 34 bytes for 32 of them, then 64
    assert "one tensor at a time: 0.5 MiB in the file, 1.0 MiB in bfloat16 on cpu" in caplog.text


def test_nothing_is_said_about_floats(tmp_path, caplog):
    weights = {name: torch.from_numpy(array) for name, array in random_arrays(TINY).items()}
    with caplog.at_level(logging.INFO, logger="ramet.models.torch_weights"):
        LlamaModel(
            TINY, open_weights(write_hf(tmp_path / "m", TINY, weights), TINY), dtype=torch.float32, device=CPU
        )
    assert caplog.text == ""


def test_a_tensor_that_cannot_be_read_is_refused_from_the_thread_that_reads():
    weights = random_weights(CONFIG)
    broken = loader_of(weights)
    weights.stored = lambda name: StoredTensor((199, 48), "Q8_0", np.zeros((199, 5), dtype=np.uint8))
    with pytest.raises(ValueError):
        broken.load("model.embed_tokens.weight")


# ---------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_device_holds_the_weights_and_one_piece_of_them(monkeypatch, dtype):
    """Torch's device without memory, "meta", counted as if it had some."""
    monkeypatch.setattr(torch_weights, "READER_BYTES", 2048)
    config = tiny_config(hidden_size=256, intermediate_size=512, vocab_size=1000)
    piece = READERS * 4 * max(shape[-1] for shape in tensor_shapes(config).values())
    weights = random_weights(config)
    final = sum(tensor.numel() for tensor in weights.tensors.values()) * dtype.itemsize
    with CountedMemory("meta") as memory:
        loader = loader_of(weights, config, dtype, torch.device("meta"))
        layers = [f"model.layers.{layer}" for layer in range(config.num_layers)]
        kept = [
            loader.load("model.embed_tokens.weight"),
            loader.load("model.norm.weight"),
            loader.load("lm_head.weight"),
        ]
        for layer in layers:
            kept += [
                loader.load(*(f"{layer}.self_attn.{part}_proj.weight" for part in "qkv")),
                loader.load(*(f"{layer}.mlp.{part}_proj.weight" for part in ("gate", "up"))),
                loader.load(f"{layer}.self_attn.o_proj.weight"),
                loader.load(f"{layer}.mlp.down_proj.weight"),
                loader.load(f"{layer}.input_layernorm.weight"),
                loader.load(f"{layer}.post_attention_layernorm.weight"),
            ]
        assert memory.allocated() == sum(tensor.nbytes for tensor in kept) == final
        assert final < memory.highest() <= final + piece


def test_one_stored_tensor_is_held_at_a_time():
    config = tiny_config()
    weights = WatchedWeights(config)
    model = LlamaModel(config, weights, dtype=torch.bfloat16, device=CPU)
    assert weights.most_alive == 1
    assert not weights.alive
    assert model.config is config


def test_decoded_values_are_never_all_on_the_host(monkeypatch):
    monkeypatch.setattr(torch_weights, "READER_BYTES", 2**15)
    config = tiny_config(vocab_size=8192, hidden_size=256)
    table = np.zeros((8192, 256 // 32 * 34), dtype=np.uint8)

    class Blocks:
        def names(self):
            return tensor_shapes(config)

        def stored(self, name):
            return StoredTensor((8192, 256), "Q8_0", table)

    loader = loader_of(Blocks(), config, torch.bfloat16)
    tracemalloc.start()
    try:
        loader.load("model.embed_tokens.weight")
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert highest < 8192 * 256 * 4 / 2


# --------------------------------------------------------------------------------------- random weights


def test_dummy_weights_are_drawn_on_the_device_and_not_read(monkeypatch):
    weights = DummyWeights(CONFIG)
    monkeypatch.setattr(weights, "stored", pytest.fail)
    loaders = [loader_of(weights, dtype=torch.bfloat16) for _ in range(2)]
    first, second = (loader.load(*PARTS) for loader in loaders)
    assert torch.equal(first, second) and first.dtype == torch.bfloat16
    assert first.shape == ((4 + 2 + 2) * 32, 48)
    query, key, value = first.float().split([128, 64, 64])
    assert 0.018 < query.std() < 0.022 and abs(query.mean()) < 0.002
    assert not torch.equal(key, value)
    assert (loaders[0].load("model.norm.weight") == 1).all()
    assert torch.equal(loaders[0].load(PARTS[1]), first[128:192])  # stacked or not


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu(dtype):
    device = torch.device("cuda")
    weights = random_weights(CONFIG)
    stacked = loader_of(weights, dtype=dtype, device=device).load(*PARTS)
    assert torch.equal(stacked.cpu(), torch.cat([weights.tensors[name] for name in PARTS]).to(dtype))
    drawn = loader_of(DummyWeights(CONFIG), dtype=dtype, device=device).load(*PARTS)
    assert drawn.is_cuda and 0.018 < drawn.float().std() < 0.022
