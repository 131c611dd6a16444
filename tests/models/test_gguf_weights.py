"""Tensors from GGUF files: every block format against its definition, and the order of rotary rows."""

from __future__ import annotations

import struct
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from stored_models import TINY, interleaved, loaded, random_weights, write_gguf

from ramet.errors import CorruptWeights, UnsupportedModel
from ramet.models.stored import as_float32
from ramet.models.tensor_shapes import tensor_shapes
from ramet.models.weights import load_model_config, open_weights

DOWN = "model.layers.0.mlp.down_proj.weight"  # rows of 256 values fit every block size
DOWN_SHAPE = tensor_shapes(TINY)[DOWN]

# ---------------------------------------------- the block formats, one value at a time, from their definition


def halves(data: bytes, count: int) -> tuple[float, ...]:
    return struct.unpack(f"<{count}e", data[: 2 * count])


def small_block(data: bytes, *, high_bits: bool, has_minimum: bool) -> list[float]:
    """Q4_0, Q4_1, Q5_0, Q5_1: scale, perhaps minimum, perhaps fifth bits, then 32 values of four bits."""
    count = 2 if has_minimum else 1
    scale, minimum = (*halves(data, count), 0.0)[:2]
    rest = data[2 * count :]
    high = int.from_bytes(rest[:4], "little") if high_bits else 0
    nibbles = rest[4:] if high_bits else rest
    offset = 0 if has_minimum else (16 if high_bits else 8)
    values = []
    for index in range(32):
        low = nibbles[index] & 15 if index < 16 else nibbles[index - 16] >> 4
        values.append(scale * ((low | (high >> index & 1) << 4) - offset) + minimum)
    return values


def q8_0(data: bytes) -> list[float]:
    (scale,) = halves(data, 1)
    return [scale * value for value in struct.unpack("<32b", data[2:])]


def six_bit_pairs(packed: bytes) -> list[tuple[int, int]]:
    """The eight (scale, minimum) pairs of a K block, six bits each, in twelve bytes."""
    pairs = [(packed[j] & 63, packed[j + 4] & 63) for j in range(4)]
    for j in range(4):
        scale = (packed[j + 8] & 15) | (packed[j] >> 6) << 4
        minimum = packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4
        pairs.append((scale, minimum))
    return pairs


def q4_or_q5_k(data: bytes, *, high_bits: bool) -> list[float]:
    scale, minimum = halves(data, 2)
    pairs = six_bit_pairs(data[4:16])
    high = data[16:48] if high_bits else bytes(32)
    nibbles = data[48:] if high_bits else data[16:]
    values = []
    for group in range(8):  # of 32 values; two groups share 32 bytes
        for index in range(32):
            byte = nibbles[group // 2 * 32 + index]
            low = byte >> 4 if group % 2 else byte & 15
            value = low | (high[index] >> group & 1) << 4
            values.append(scale * pairs[group][0] * value - minimum * pairs[group][1])
    return values


def q6_k(data: bytes) -> list[float]:
    low, high, scales = data[:128], data[128:192], struct.unpack("<16b", data[192:208])
    (scale,) = halves(data[208:], 1)
    values = []
    for index in range(256):
        half, quarter, column = index // 128, index % 128 // 32, index % 32
        byte = low[half * 64 + quarter % 2 * 32 + column]
        bits = byte >> 4 if quarter >= 2 else byte & 15
        bits |= (high[half * 32 + column] >> 2 * quarter & 3) << 4
        values.append(scale * scales[index // 16] * (bits - 32))
    return values


DEFINITIONS = {
    Type.Q4_0: lambda data: small_block(data, high_bits=False, has_minimum=False),
    Type.Q4_1: lambda data: small_block(data, high_bits=False, has_minimum=True),
    Type.Q5_0: lambda data: small_block(data, high_bits=True, has_minimum=False),
    Type.Q5_1: lambda data: small_block(data, high_bits=True, has_minimum=True),
    Type.Q8_0: q8_0,
    Type.Q4_K: lambda data: q4_or_q5_k(data, high_bits=False),
    Type.Q5_K: lambda data: q4_or_q5_k(data, high_bits=True),
    Type.Q6_K: q6_k,
}


def random_blocks(kind: Type) -> np.ndarray:
    """Random bytes for a whole tensor, with halves in the place of scales."""
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind.value)
    blocks = rng.integers(0, 256, (DOWN_SHAPE[0] * DOWN_SHAPE[1] // block_size, type_size), dtype=np.uint8)
    scales = rng.standard_normal((len(blocks), 2)).astype("<f2").view(np.uint8)
    if kind == Type.Q6_K:
        blocks[:, 208:210] = scales[:, :2]
    else:
        width = 4 if kind in (Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K) else 2
        blocks[:, :width] = scales[:, :width]
    return blocks


@pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.name)
def test_blocks_mean_what_their_definition_says(tmp_path, kind):
    blocks = random_blocks(kind)
    encoded = blocks.reshape(DOWN_SHAPE[0], -1)
    path = write_gguf(tmp_path / "m.gguf", TINY, random_weights(TINY), raw={DOWN: (encoded, kind)})
    opened = open_weights(path, TINY)
    stored = opened.stored(DOWN)
    assert (stored.shape, stored.type) == (DOWN_SHAPE, kind.name)
    assert np.array_equal(stored.data, encoded)
    expected = [value for block in blocks for value in DEFINITIONS[kind](block.tobytes())]
    values = as_float32(stored)
    assert (values.dtype, values.shape) == (np.float32, DOWN_SHAPE)
    np.testing.assert_allclose(values.ravel(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(loaded(opened, DOWN), torch.from_numpy(values))


@pytest.mark.parametrize(
    "kind", [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0], ids=lambda k: k.name
)
def test_quantized_weights_come_back_close(tmp_path, kind):
    weights = random_weights(TINY)
    encoded = gguf.quants.quantize(weights[DOWN], kind)
    path = write_gguf(tmp_path / "m.gguf", TINY, weights, raw={DOWN: (encoded, kind)})
    error = as_float32(open_weights(path, TINY).stored(DOWN)) - weights[DOWN]
    assert np.abs(error).max() < 0.4


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(Type.F32, torch.float32), (Type.F16, torch.float16), (Type.BF16, torch.bfloat16)],
    ids=["F32", "F16", "BF16"],
)
def test_floats_come_as_they_are_stored(tmp_path, kind, dtype):
    weights = random_weights(TINY)
    encoded = gguf.quants.quantize(weights[DOWN], kind)
    path = write_gguf(tmp_path / "m.gguf", TINY, weights, raw={DOWN: (encoded, kind)})
    opened = open_weights(path, TINY)
    stored = opened.stored(DOWN)
    assert (stored.shape, stored.type) == (DOWN_SHAPE, kind.name)
    expected = torch.from_numpy(weights[DOWN]).to(dtype)
    assert torch.equal(loaded(opened, DOWN, dtype), expected)
    assert np.array_equal(as_float32(stored), expected.float().numpy())


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_tensor_is_found_and_rotary_rows_are_in_order(tmp_path, architecture):
    config = replace(
        TINY,
        architecture=architecture,
        qkv_bias=architecture in ("llama", "qwen2"),
        output_bias=architecture == "llama",
        mlp_bias=architecture == "llama",
        qk_norm=architecture == "qwen3",
        tie_word_embeddings=architecture != "mistral",
    )
    expected = random_weights(config)
    path = write_gguf(tmp_path / "m.gguf", config, expected)
    weights = open_weights(path, config)
    assert list(weights.names()) == list(expected)
    for name in weights.names():
        assert np.array_equal(as_float32(weights.stored(name)), expected[name]), name


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_1, Type.BF16, Type.F16], ids=lambda kind: kind.name)
def test_rotary_rows_are_moved_as_they_are_stored(tmp_path, kind):
    config = replace(TINY, qkv_bias=True)
    weights, raw, expected = random_weights(config), {}, {}
    for part, heads in (("q_proj", config.num_heads), ("k_proj", config.num_kv_heads)):
        name = f"model.layers.1.self_attn.{part}.weight"
        expected[name] = gguf.quants.quantize(weights[name], kind)
        raw[name] = (gguf.quants.quantize(interleaved(weights[name], heads), kind), kind)
    path = write_gguf(tmp_path / "m.gguf", config, weights, raw=raw)
    for name, encoded in expected.items():
        stored = open_weights(path, config).stored(name)
        assert (stored.shape, stored.type) == (weights[name].shape, kind.name)
        assert np.array_equal(stored.data, encoded.view(np.uint8))


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0], ids=lambda kind: kind.name)
def test_elements_of_a_rotary_bias_are_moved_one_by_one(tmp_path, kind):
    config, name = replace(TINY, qkv_bias=True), "model.layers.0.self_attn.q_proj.bias"
    weights = random_weights(config)
    encoded = gguf.quants.quantize(interleaved(weights[name], config.num_heads), kind)
    path = write_gguf(tmp_path / "m.gguf", config, weights, raw={name: (encoded, kind)})
    stored = open_weights(path, config).stored(name)
    assert stored.type == ("F32" if kind == Type.Q8_0 else kind.name)  # no block has elements that could move
    assert (stored.shape, len(stored.data)) == (weights[name].shape, 1)
    as_written = gguf.quants.dequantize(encoded, kind)
    assert np.array_equal(interleaved(as_float32(stored), config.num_heads), as_written)


def test_what_is_not_moved_stays_on_the_map_of_the_file(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", TINY, random_weights(TINY))
    data = open_weights(path, TINY).stored(DOWN).data
    assert not data.flags.writeable
    assert not data.flags.owndata


# -------------------------------------------------------------------------------------------- bad files


def test_types_we_do_not_read_are_named(tmp_path):
    blocks = np.zeros((DOWN_SHAPE[0], 84), dtype=np.uint8)
    path = write_gguf(tmp_path / "m.gguf", TINY, random_weights(TINY), raw={DOWN: (blocks, Type.Q2_K)})
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ffn_down\.weight' has type Q2_K"):
        open_weights(path, TINY).stored(DOWN)


def test_missing_tensors_are_named(tmp_path):
    weights = random_weights(TINY)
    del weights["model.norm.weight"]
    path = write_gguf(tmp_path / "m.gguf", TINY, weights)
    with pytest.raises(CorruptWeights, match=r"lacks 1 tensors.*output_norm\.weight"):
        open_weights(path, TINY)


def test_another_shape_than_the_config_says_is_reported(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", TINY, random_weights(TINY))
    config = replace(load_model_config(path), intermediate_size=128)
    with pytest.raises(CorruptWeights, match=r"shape \(32, 256\), the config says \(32, 128\)"):
        open_weights(path, config).stored(DOWN)


@pytest.mark.parametrize("kept", [20, 300, -4000, -1])
def test_a_truncated_file_is_reported(tmp_path, kept):
    path = write_gguf(tmp_path / "m.gguf", TINY, random_weights(TINY))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptWeights, match=r"m\.gguf is truncated"):
        open_weights(path, TINY)


def test_a_tensor_the_model_does_not_have(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", TINY, random_weights(TINY))
    with pytest.raises(CorruptWeights, match="no tensor 'nothing'"):
        open_weights(path, TINY).stored("nothing")
