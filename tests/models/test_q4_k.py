"""Q4_K blocks as Q4_1 blocks: the numbers stay, scales and minima are rounded to float16."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.models.q4_k import q4_k_as_q4_1


def random_blocks(rows, blocks, size, seed=0):
    """Rows of Q4_K blocks: any bytes, and scales of about ``size``, some of them negative."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, blocks, 144), dtype=np.uint8)
    scales = rng.standard_normal((rows, blocks, 2)) * size
    data[:, :, :4] = scales.astype("<f2").view(np.uint8)
    return data


def values(blocks):
    return gguf.quants.dequantize(blocks.reshape(len(blocks), -1), Type.Q4_K).astype(np.float64)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 5),
    blocks=st.integers(1, 3),
    size=st.sampled_from([1e-7, 1e-6, 1e-4, 1e-2, 1.0, 100.0]),
    seed=st.integers(0, 2**32),
)
def test_a_weight_moves_by_less_than_a_thousandth_of_its_parts(rows, blocks, size, seed):
    data = random_blocks(rows, blocks, size, seed)
    converted = q4_k_as_q4_1(data.reshape(rows, -1))
    assert (converted.dtype, converted.shape) == (np.uint8, (rows, blocks * 160))
    result = gguf.quants.dequantize(converted, Type.Q4_1).astype(np.float64)

    # A weight is scale * number - minimum; the parts are what is left without the other
    without_minima, without_scales = data.copy(), data.copy()
    without_minima[:, :, 2:4] = 0
    without_scales[:, :, 0:2] = 0
    parts = np.abs(values(without_minima)) + np.abs(values(without_scales))
    assert (np.abs(result - values(data)) <= parts / 1000).all()


def test_scales_that_float16_can_hold_lose_nothing():
    data = random_blocks(4, 2, 1.0)
    data[:, :, :4] = np.array([0.5, -0.25], dtype="<f2").view(np.uint8)
    result = gguf.quants.dequantize(q4_k_as_q4_1(data.reshape(4, -1)), Type.Q4_1)
    assert np.array_equal(result, values(data))


def test_blocks_of_zeros_stay_zeros():
    converted = q4_k_as_q4_1(np.zeros((2, 288), dtype=np.uint8))
    assert not gguf.quants.dequantize(converted, Type.Q4_1).any()


@pytest.mark.parametrize("read_only", [True, False])
def test_rows_may_lie_anywhere_in_a_file(read_only):
    data = random_blocks(3, 2, 0.01).reshape(3, -1)
    file = bytearray(b"..." + data.tobytes())
    there = np.frombuffer(bytes(file) if read_only else file, dtype=np.uint8)[3:].reshape(3, -1)
    assert np.array_equal(q4_k_as_q4_1(there), q4_k_as_q4_1(data))
