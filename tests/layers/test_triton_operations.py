"""Triton's operations against torch's: on a GPU, or else in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ramet.layers.reference import TorchOperations
from ramet.layers.rope import RotaryTable

pytest.importorskip("triton")

from ramet.kernels.triton import matmul
from ramet.layers.triton import TritonOperations

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REFERENCE, TRITON = TorchOperations(), TritonOperations()
needs_gpu = pytest.mark.skipif(
    DEVICE.type == "cpu", reason="Triton's interpreter does not do this as GPUs do"
)
FLOAT8 = torch.float8_e4m3fn

# NOTE: the interpreter rounds to bfloat16 towards zero, so there an error is up to twice as large
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}
dtypes = st.sampled_from(list(TOLERANCE))
seeds = st.integers(0, 2**32)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """What a kernel does not write is seen."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)

        def poisoned(*args, make=make, **options):
            return make(*args, **options).fill_(torch.nan)

        monkeypatch.setattr(matmul.torch, name, poisoned)


def random(dtype, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device=DEVICE, dtype=dtype)


def assert_close(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


@settings(max_examples=25, deadline=None)
@given(dtypes, st.integers(0, 4), st.integers(1, 1500), st.sampled_from([1e-6, 0.1]), seeds)
def test_norms(dtype, num_rows, size, eps, seed):
    hidden, delta = random(dtype, 2, num_rows, size, seed=seed)
    weight = random(dtype, size, seed=1)
    assert_close(TRITON.norm(hidden, weight, eps), REFERENCE.norm(hidden, weight, eps))
    total, normed = TRITON.add_and_norm(hidden, delta, weight, eps)
    assert_close(total, hidden + delta)
    assert_close(normed, REFERENCE.norm(total, weight, eps))


def test_norm_is_over_the_last_dimension():
    x, weight = random(torch.float32, 3, 5, 40)[:, 1:4], random(torch.float32, 40)
    assert_close(TRITON.norm(x, weight, 1e-5), REFERENCE.norm(x, weight, 1e-5))


@settings(max_examples=15, deadline=None)
@given(dtypes, st.integers(0, 4), st.integers(1, 2500), seeds)
def test_silu_and_multiply(dtype, num_rows, size, seed):
    gate_up = random(dtype, num_rows, 2 * size, seed=seed) * 8
    assert_close(TRITON.silu_and_multiply(gate_up), REFERENCE.silu_and_multiply(gate_up))


def test_silu_of_extreme_values_is_finite():
    gate_up = torch.tensor([[-1000.0, -90.0, 0.0, 90.0, 1000.0, 1.0, 1.0, 1.0, 1.0, 1.0]], device=DEVICE)
    assert TRITON.silu_and_multiply(gate_up).tolist() == [[0.0, pytest.approx(0), 0.0, 90.0, 1000.0]]


def angles(num_rows, head_dim):
    frequencies = 10000.0 ** -torch.linspace(0, 1, head_dim // 2, dtype=torch.float64)
    table = RotaryTable(frequencies, 1.0, 100, DEVICE)
    return table.lookup(torch.arange(num_rows, device=DEVICE) * 7)


def written(operations, qkv, pool_dtype, num_kv_heads, head_dim, **norms):
    """Rotated queries, and a pool of 20 slots after the rows were written from the last slot down."""
    keys, values = (random(torch.float32, 20, num_kv_heads, head_dim, seed=s).to(pool_dtype) for s in (5, 6))
    slot_ids = 19 - torch.arange(len(qkv), device=DEVICE)
    cos_sin = angles(len(qkv), head_dim)
    return operations.rotate_and_write(qkv, cos_sin, slot_ids, keys, values, **norms), keys, values


HEADS = [(1, 1), (4, 4), (9, 3), (6, 1), (7, 1), (32, 2)]


@settings(max_examples=30, deadline=None)
@given(
    dtypes,
    st.sampled_from([None, torch.float32, torch.bfloat16]),
    st.sampled_from(HEADS),
    st.sampled_from([32, 64, 80, 96, 98, 128, 160, 256]),
    st.booleans(),
    st.integers(0, 5),
    seeds,
)
def test_rotate_and_write(dtype, pool_dtype, heads, head_dim, normed, num_rows, seed):
    num_heads, num_kv_heads = heads
    qkv = random(dtype, num_rows, (num_heads + 2 * num_kv_heads) * head_dim, seed=seed)
    norms = {}
    if normed:
        query_norm, key_norm = random(dtype, 2, head_dim, seed=3)
        norms = {"query_norm": query_norm, "key_norm": key_norm, "eps": 1e-5}
    found, expected = (
        written(operations, qkv, pool_dtype or dtype, num_kv_heads, head_dim, **norms)
        for operations in (TRITON, REFERENCE)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        tolerance = max(TOLERANCE[dtype], TOLERANCE[ours.dtype])
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=tolerance, atol=tolerance)


def test_rows_may_be_a_part_of_wider_ones():
    qkv = random(torch.float32, 4, 500)[:, : 6 * 32]
    found, expected = (
        written(operations, rows, torch.float32, 1, 32)
        for operations, rows in ((TRITON, qkv), (REFERENCE, qkv.contiguous()))
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("operations", [REFERENCE, TRITON])
def test_float8_keeps_the_nearest_number_it_has(operations):
    """Numbers that float8 has stay as they are; larger ones become its largest."""
    exact = torch.arange(256, dtype=torch.uint8).view(FLOAT8).float()
    exact = exact[exact.isfinite()].to(DEVICE)
    qkv = random(torch.float32, 4, 3, 64)
    qkv[:, 2] = exact[torch.arange(4 * 64, device=DEVICE) % len(exact)].view(4, 64)
    qkv[0, 2, :4] = torch.tensor([449.0, 1e6, -500.0, -1e30])
    _, _, values = written(operations, qkv.view(4, -1), FLOAT8, 1, 64)
    expected = qkv[:, 2].clamp(-448, 448)
    assert torch.equal(values.float()[[19, 18, 17, 16], 0], expected)


@pytest.mark.parametrize("operations", [REFERENCE, pytest.param(TRITON, marks=needs_gpu)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_float8_rounds(operations, dtype):
    qkv = random(dtype, 5, 6 * 64) * 3
    queries, *narrow = written(operations, qkv, FLOAT8, 2, 64)
    expected, *wide = written(REFERENCE, qkv, dtype, 2, 64)
    assert_close(queries, expected)
    for held, exact in zip(narrow, wide, strict=True):
        torch.testing.assert_close(held[15:].float(), exact[15:].float(), rtol=0.07, atol=0.002)


POOLS = [torch.float32, torch.bfloat16, FLOAT8]


@pytest.mark.parametrize(
    ("operations", "pool_dtype"),
    [
        *((REFERENCE, dtype) for dtype in POOLS),
        *((TRITON, dtype) for dtype in POOLS[:2]),
        pytest.param(TRITON, FLOAT8, marks=needs_gpu),
    ],
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", [1, 2], ids=["key", "value"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning"
)  # of NumPy, which the interpreter computes with
def test_what_is_not_finite_is_written_as_a_key_that_spoils_and_a_value_of_nothing(
    operations, pool_dtype, bad, part, normed
):
    num_kv_heads, head_dim = 3, 48
    qkv = random(torch.float32, 4, 3, num_kv_heads, head_dim)
    norms = {"query_norm": random(torch.float32, head_dim), "key_norm": random(torch.float32, head_dim)}
    given = norms if normed else {}
    healthy = written(operations, qkv.view(4, -1), pool_dtype, num_kv_heads, head_dim, **given)
    qkv[1, part, 2, 40] = bad
    spoiled = written(operations, qkv.view(4, -1), pool_dtype, num_kv_heads, head_dim, **given)
    _, keys, values = (tensor.float() for tensor in spoiled)
    assert keys[18, 2].isnan().all()
    assert not values[18, 2].any()
    keys[18, 2], values[18, 2] = healthy[1][18, 2].float(), healthy[2][18, 2].float()
    for ours, theirs in zip((spoiled[0], keys, values), healthy, strict=True):
        assert torch.equal(ours, theirs.float())


def test_a_pool_of_fewer_bits_is_not_spoiled_by_large_numbers():
    """Float32 rows and a pool that would round their largest numbers to infinity."""
    qkv = random(torch.float32, 2, 3, 32)
    qkv[:, 2] = torch.finfo(torch.float32).max
    for operations in (REFERENCE, TRITON):
        _, _, values = written(operations, qkv.view(2, -1), torch.bfloat16, 1, 32)
        assert (values[[18, 19]].float() == torch.finfo(torch.bfloat16).max).all()


MATRICES = [(12, 24), (33, 200), (160, 256), (300, 130)]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=needs_gpu)], ids=str
)
@pytest.mark.parametrize(("out_features", "in_features"), MATRICES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_linear(dtype, out_features, in_features, deterministic):
    operations = TritonOperations(deterministic=deterministic)
    weight, bias = random(dtype, out_features, in_features) * in_features**-0.5, random(dtype, out_features)
    for num_rows in (0, 1, 63, 64, 130):
        x = random(dtype, num_rows, in_features, seed=num_rows)
        assert_close(operations.linear(x, weight), REFERENCE.linear(x, weight))
        assert_close(operations.linear(x, weight, bias), REFERENCE.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("out_features", "in_features"), [(33, 200), (80, 128)])
def test_deterministic_rows_do_not_depend_on_company(dtype, out_features, in_features):
    operations = TritonOperations(deterministic=True)
    weight, bias = random(dtype, out_features, in_features), random(dtype, out_features)
    rows = random(dtype, 70, in_features)
    whole = operations.linear(rows, weight, bias)
    for num_rows in range(1, 71):
        assert torch.equal(operations.linear(rows[:num_rows], weight, bias), whole[:num_rows])
    for first in (1, 17, 64, 69):
        moved = operations.linear(rows[first:], weight, bias)
        if DEVICE.type == "cuda":
            assert torch.equal(moved, whole[first:])
        else:  # the interpreter multiplies with a library whose rounding depends on where a row stands
            torch.testing.assert_close(moved, whole[first:], rtol=4 * torch.finfo(dtype).eps, atol=2e-5)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_row_that_is_not_finite_spoils_no_other(deterministic):
    operations = TritonOperations(deterministic=deterministic)
    rows, weight = random(torch.float32, 5, 24), random(torch.float32, 12, 24, seed=1)
    expected = operations.linear(rows, weight)
    rows[2] = torch.nan
    spoiled = operations.linear(rows, weight)
    assert spoiled[2].isnan().all()
    assert torch.equal(spoiled[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
