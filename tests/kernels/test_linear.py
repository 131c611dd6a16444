"""Products with packed weights: against their arithmetic in NumPy, float64, and a row against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packed_matrices import KINDS, linear, pack, random_weights

from ramet import kernels

NATIVE = kernels.load_native()
if NATIVE is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

ISAS = NATIVE.supported_isas()
each_isa = pytest.mark.parametrize("isa", ISAS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def takes(kind, inputs):
    """The number of inputs, or the next one that this kind can have: blocks come whole from a file."""
    return inputs if kind not in ("Q4_0", "Q4_1", "Q8_0") else -(-inputs // 32) * 32


def random_inputs(rng, rows, inputs):
    """Inputs with rows of different size, zeros, and blocks that are all zero."""
    x = rng.standard_normal((rows, inputs)) * 4.0 ** rng.integers(-5, 6, (rows, 1))
    x[rng.random(x.shape) < 0.1] = 0
    x[rng.random(rows) < 0.1, : inputs // 2] = 0
    return x.astype(np.float32)


def check(isa, kind, seed, outputs, inputs, rows, with_bias=False):
    rng = np.random.default_rng(seed)
    inputs = takes(kind, inputs)
    matrix, expected = pack(kind, random_weights(rng, outputs, inputs))
    x = random_inputs(rng, rows, inputs)
    product, rounding = expected.product(x)
    if with_bias:
        bias = rng.standard_normal(outputs).astype(np.float32)
        matrix.set_bias(bias)
        product = product + bias
        rounding = rounding + np.abs(product) * 2.0**-23
    result = linear(isa, matrix, x)
    difference = np.abs(result - product)
    assert (difference <= rounding).all(), f"{(difference / rounding).max():.2f} of what rounding may do"

    exact = x.astype(np.float64) @ expected.decoded.T + (bias if with_bias else 0)
    assert (np.abs(result - exact) <= expected.tolerance(x) + rounding).all()


@each_isa
@each_kind
@settings(max_examples=8, deadline=None)
@example(seed=162, outputs=56, inputs=352, rows=64, with_bias=False)  # a sum between two values of bf16
@given(
    seed=st.integers(0, 2**32),
    outputs=st.integers(1, 70),
    inputs=st.one_of(st.integers(1, 100), st.sampled_from([127, 160, 352])),
    rows=st.integers(1, 70),
    with_bias=st.booleans(),
)
def test_products_follow_their_arithmetic(isa, kind, seed, outputs, inputs, rows, with_bias):
    check(isa, kind, seed, outputs, inputs, rows, with_bias)


@each_isa
@each_kind
def test_products_of_given_shapes(isa, kind):
    for outputs, inputs, rows in [(48, 2048, 3), (33, 1536, 13), (1, 1, 1), (16, 32, 70)]:
        check(isa, kind, outputs * inputs, outputs, inputs, rows)


@each_isa
@each_kind
def test_a_row_has_the_same_bits_alone_in_every_tile_and_in_a_batch(isa, kind):
    rng = np.random.default_rng(1)
    matrix, _ = pack(kind, random_weights(rng, 70, takes(kind, 90)))
    matrix.set_bias(rng.standard_normal(70).astype(np.float32))
    x = random_inputs(rng, 70, takes(kind, 90))
    whole = linear(isa, matrix, x)
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 64, 69):
        parts = [linear(isa, matrix, x[begin : begin + rows]) for begin in range(0, 70, rows)]
        assert np.array_equal(np.concatenate(parts), whole), f"{rows} rows at a time"
    order = rng.permutation(70)
    assert np.array_equal(linear(isa, matrix, x[order]), whole[order])


@each_isa
@each_kind
def test_an_output_has_the_same_bits_whatever_panel_it_is_in(isa, kind):
    rng = np.random.default_rng(2)
    weights, x = random_weights(rng, 70, takes(kind, 64)), random_inputs(rng, 7, takes(kind, 64))
    whole = linear(isa, pack(kind, weights)[0], x)
    for begin, end in [(0, 1), (3, 19), (16, 32), (5, 70), (69, 70)]:
        part = linear(isa, pack(kind, weights[begin:end])[0], x)
        assert np.array_equal(part, whole[:, begin:end]), (begin, end)


@each_isa
@each_kind
def test_a_row_that_is_not_finite_spoils_no_other(isa, kind):
    rng = np.random.default_rng(3)
    inputs = takes(kind, 70)
    matrix, _ = pack(kind, random_weights(rng, 40, inputs))
    x = random_inputs(rng, 20, inputs)
    healthy = linear(isa, matrix, x)
    assert np.isfinite(healthy).all()
    sick = {0: [0], 7: [31], 8: [inputs - 1], 18: [5, 6, 33], 19: list(range(inputs))}
    for bad in (np.nan, np.inf, -np.inf):
        for row, columns in sick.items():
            x[row, columns] = bad
        result = linear(isa, matrix, x)
        assert not np.isfinite(result[list(sick)]).any(), bad
        others = [row for row in range(20) if row not in sick]
        assert np.array_equal(result[others], healthy[others]), bad


@each_isa
@each_kind
def test_opposite_infinities_are_not_a_number(isa, kind):
    rng = np.random.default_rng(4)
    inputs = takes(kind, 64)
    matrix, _ = pack(kind, np.abs(random_weights(rng, 20, inputs)) + 0.1)
    x = np.zeros((1, inputs), dtype=np.float32)
    x[0, 5], x[0, 40] = np.inf, -np.inf
    assert np.isnan(linear(isa, matrix, x)).all()


@each_isa
@each_kind
def test_tiny_and_huge_inputs(isa, kind):
    rng = np.random.default_rng(5)
    inputs = takes(kind, 40)
    matrix, expected = pack(kind, random_weights(rng, 20, inputs, magnitude=0.01))
    for size in (1e-45, 1e-38, 1e-30, 1e30, 3e36):
        x = (rng.uniform(-1, 1, (9, inputs)) * size).astype(np.float32)
        result = linear(isa, matrix, x)
        exact = x.astype(np.float64) @ expected.decoded.T
        # Below 1e-36 numbers lose their precision, or are taken for zeros
        limit = expected.tolerance(x) + 1e-6 * np.abs(exact).max() + 1e-36
        assert (np.abs(result - exact) <= limit).all(), size


@each_isa
@each_kind
def test_zeros_give_the_bias(isa, kind):
    inputs = takes(kind, 33)
    matrix, _ = pack(kind, random_weights(np.random.default_rng(6), 19, inputs))
    x = np.zeros((3, inputs), dtype=np.float32)
    assert not linear(isa, matrix, x).any()
    bias = np.arange(19, dtype=np.float32)
    matrix.set_bias(bias)
    assert np.array_equal(linear(isa, matrix, x), np.tile(bias, (3, 1)))


@each_isa
def test_no_rows_give_no_outputs(isa):
    matrix, _ = pack("Q8_0", random_weights(np.random.default_rng(7), 19, 32))
    assert linear(isa, matrix, np.empty((0, 32), dtype=np.float32)).shape == (0, 19)


shapes = st.tuples(st.integers(0, 40), st.integers(0, 40))


@settings(max_examples=100, deadline=None)
@given(
    shape=st.just((17, 33)) | shapes, x_shape=shapes, out_shape=shapes, isa=st.sampled_from([*ISAS, "sse9"])
)
def test_shapes_that_do_not_fit_are_refused(shape, x_shape, out_shape, isa):
    matrix = NATIVE.pack_q8(np.ones((17, 33), dtype=np.float32))
    x, out = np.ones(x_shape, dtype=np.float32), np.ones(out_shape, dtype=np.float32)
    fits = isa in ISAS and x_shape[1] == 33 and out_shape == (x_shape[0], 17)
    if fits:
        NATIVE.linear(isa, matrix, x, out)
    else:
        with pytest.raises(ValueError, match=r"must be|instruction set"):
            NATIVE.linear(isa, matrix, x, out)


@each_isa
@pytest.mark.parametrize("kinds", [("Q4_1", "Q4_1"), ("Q4_0", "F32"), ("BF16", "Q8_0")], ids="-".join)
@pytest.mark.parametrize("outputs", [1, 16, 17, 40, 64])
def test_matrices_whose_panels_take_turns_multiply_as_before(isa, kinds, outputs):
    rng = np.random.default_rng(outputs)
    alone = [pack(kind, random_weights(rng, outputs, 96))[0] for kind in kinds]
    alone[0].set_bias(rng.standard_normal(outputs).astype(np.float32))
    in_turn = NATIVE.interleave(*alone)
    for rows in (1, 20):
        x = random_inputs(rng, rows, 96)
        for one, other in zip(alone, in_turn, strict=True):
            assert one.num_bytes == other.num_bytes
            assert linear(isa, one, x).tobytes() == linear(isa, other, x).tobytes()


def test_only_matrices_of_equally_many_outputs_take_turns():
    narrow, wide = (pack("Q4_0", random_weights(np.random.default_rng(0), n, 32))[0] for n in (16, 17))
    with pytest.raises(ValueError, match="as many outputs"):
        NATIVE.interleave(narrow, wide)
