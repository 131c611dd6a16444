"""Matrices in the kernels' layout: each weight comes back, and what does not fit is refused."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_matrices import BF16_EPSILON, BLOCKS, FLOATS, KINDS, bf16, by_blocks, linear, pack, random_weights

from ramet import kernels

NATIVE = kernels.load_native()
if NATIVE is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

FORMATS = dict(zip(BLOCKS, ("q4", "q4 with minima", "q8"), strict=True)) | {"floats as q8": "q8"}
FORMATS |= {kind: "f32" if kind.endswith("kept") else "bf16" for kind in FLOATS}


def weights_of(matrix, isa=None):
    """The weights one by one: products with inputs that are zero but for a one."""
    inputs = matrix.shape[1]
    columns = linear(isa or NATIVE.supported_isas()[0], matrix, np.eye(inputs, dtype=np.float32))
    return columns.T.astype(np.float64)


@pytest.mark.parametrize("isa", NATIVE.supported_isas())
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 32), (17, 96), (47, 160), (16, 256)])
def test_every_weight_comes_back(kind, isa, outputs, inputs):
    weights = random_weights(np.random.default_rng(outputs), outputs, inputs)
    matrix, expected = pack(kind, weights)
    assert matrix.shape == (outputs, inputs)
    assert matrix.format == FORMATS[kind]
    if expected.values is not None:
        assert np.array_equal(weights_of(matrix, isa), expected.values)
        return
    kept = (expected.numbers * expected.scales[:, :, None]).reshape(outputs, -1)
    if expected.minima is None:
        np.testing.assert_allclose(weights_of(matrix, isa), kept, rtol=1e-6)
    else:  # a minimum is multiplied with 1 / 127 * 127, in bf16
        minima = np.repeat(expected.minima, 32, axis=1)
        np.testing.assert_allclose(weights_of(matrix, isa), kept + minima, atol=1e-6 * np.abs(weights).max())


@settings(max_examples=30, deadline=None)
@given(outputs=st.integers(1, 40), inputs=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_floats_as_8_bits_lose_half_a_step(outputs, inputs, seed):
    weights = random_weights(np.random.default_rng(seed), outputs, inputs)
    lost = np.abs(by_blocks(weights_of(NATIVE.pack_q8(weights)) - weights)).max(axis=2)
    largest = np.abs(by_blocks(weights)).max(axis=2)
    # The scale is a float16: 11 bits, and multiples of 2**-24 below 2**-14
    assert (lost <= largest / 254 * (1 + 2.0**-10) + 127 * 2.0**-25).all()


def test_matrices_that_share_memory_are_what_they_are_alone_and_outlive_the_others():
    rng, memory = np.random.default_rng(0), NATIVE.Arena()
    weights = [random_weights(rng, outputs, 96) for outputs in (1, 40, 700, 17)]
    shared = [NATIVE.pack_q8(each, memory=memory) for each in weights]
    del memory
    for each in weights[::-1]:
        matrix = shared.pop()
        assert np.array_equal(weights_of(matrix), weights_of(NATIVE.pack_q8(each)))


def test_minima_keep_the_precision_of_bfloat16_relative_to_the_middle_of_their_block():
    rng = np.random.default_rng(0)
    weights = random_weights(rng, 64, 512)
    matrix, expected = pack("Q4_1", weights)
    middle = np.abs(by_blocks(expected.decoded).max(axis=2) + by_blocks(expected.decoded).min(axis=2)) / 2
    step = np.abs(expected.scales)
    lost = np.abs(by_blocks(weights_of(matrix) - expected.decoded)).max(axis=2)
    # The middle of 0..15 is 7.5, ours is 8: half a step more
    assert (lost <= BF16_EPSILON * (middle + step / 2) + 1e-5 * np.abs(weights).max()).all()


@pytest.mark.parametrize("type_", ["F16", "BF16", "F32"])
def test_every_float_of_16_bits_comes_back(type_):
    """All numbers there are, the smallest too; infinities and what is not a number stay so."""
    bits = np.arange(2**16, dtype=np.uint16)
    if type_ == "F16":
        stored = bits
        values = bits.view(np.float16).astype(np.float32)
    else:
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        stored = bits if type_ == "BF16" else values
    data = stored.view(np.uint8).reshape(2**16, -1)
    kept = linear("baseline", NATIVE.pack(type_, data, 1, keep_f32=True), np.ones((1, 1), np.float32))[0]
    assert np.array_equal(kept, values, equal_nan=True)
    rounded = linear("baseline", NATIVE.pack(type_, data, 1), np.ones((1, 1), np.float32))[0]
    finite = np.isfinite(values)
    assert np.array_equal(rounded[finite], bf16(values[finite]))
    assert np.array_equal(rounded[~finite], values[~finite], equal_nan=True)


def test_weights_may_lie_anywhere_and_be_read_only():
    weights = random_weights(np.random.default_rng(0), 5, 64)
    stored = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
    moved = np.frombuffer(b"." + stored.tobytes(), dtype=np.uint8)[1:].reshape(stored.shape)
    assert not moved.flags.writeable
    expected = weights_of(NATIVE.pack("Q4_1", stored, 64))
    assert np.array_equal(weights_of(NATIVE.pack("Q4_1", moved, 64)), expected)
    floats = np.frombuffer(b"." + weights.tobytes(), dtype=np.uint8)[1:].reshape(5, -1)
    assert np.array_equal(weights_of(NATIVE.pack("F32", floats, 64, keep_f32=True)), weights)


@pytest.mark.parametrize(
    ("kind", "bits"), [("Q4_0", 4.5), ("Q4_1", 5), ("Q8_0", 8.5), ("F32", 16), ("F32 kept", 32)]
)
def test_the_size_is_that_of_the_bits(kind, bits):
    matrix, _ = pack(kind, random_weights(np.random.default_rng(0), 250, 512))
    assert matrix.num_bytes == 256 * 512 * bits / 8  # outputs are padded to 256


def test_blocks_are_padded_to_pairs():
    matrix = NATIVE.pack_q8(np.ones((16, 17 * 32), dtype=np.float32))
    assert matrix.num_bytes == 9 * 2 * 16 * (32 + 2)


def test_a_bias_of_another_size_is_refused():
    matrix = NATIVE.pack_q8(np.ones((17, 32), dtype=np.float32))
    for size in (0, 1, 16, 18, 32):
        with pytest.raises(ValueError, match="one value per output"):
            matrix.set_bias(np.zeros(size, dtype=np.float32))


def test_a_bias_is_set_once():
    matrix = NATIVE.pack_q8(np.zeros((17, 32), dtype=np.float32))
    matrix.set_bias(np.full(17, 2, dtype=np.float32))
    with pytest.raises(ValueError, match="has a bias already"):
        matrix.set_bias(np.zeros(17, dtype=np.float32))
    assert (linear("baseline", matrix, np.ones((1, 32), dtype=np.float32)) == 2).all()


def test_unknown_types_are_named():
    with pytest.raises(ValueError, match="Q2_K"):
        NATIVE.pack("Q2_K", np.zeros((4, 84), dtype=np.uint8), 256)


ROW_BYTES = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q8_0": (32, 34),
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
}


@settings(max_examples=200, deadline=None)
@given(
    type_=st.sampled_from([*ROW_BYTES, "Q6_K", "q4", ""]),
    rows=st.integers(1, 40),
    columns=st.one_of(st.integers(1, 100), st.sampled_from([32, 64, 96, 128]), st.integers(2**31, 2**33)),
    off_by=st.sampled_from([0, 0, 0, -1, 1, 2, 18]),
    keep_f32=st.booleans(),
)
def test_rows_of_the_wrong_size_are_refused(type_, rows, columns, off_by, keep_f32):
    per, size = ROW_BYTES.get(type_, (1, 1))
    row_bytes = min(columns // per * size, 5000) + off_by
    data = np.zeros((rows, max(row_bytes, 0)), dtype=np.uint8)
    fits = type_ in ROW_BYTES and columns % per == 0 and data.shape[1] == columns // per * size
    if fits:
        assert NATIVE.pack(type_, data, columns, keep_f32).shape == (rows, columns)
    else:
        with pytest.raises(ValueError, match=r"do not have the bytes|cannot pack|between 1 and 2\^31"):
            NATIVE.pack(type_, data, columns, keep_f32)
