"""The reference attention against the definition in float64, and a row's bits against its company."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.definition import HEADS, attend_by_definition, pool, trees
from attention.plans import Sequence, Step, model_input
from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention

CPU = torch.device("cpu")


def attend(steps, queries, keys, values):
    """The reference on queries ``[num_rows, num_heads, head_dim]``; the pool is indexed by slot."""
    attention = ReferenceAttention()
    batch = attention.plan(ForwardBatch.from_input(model_input(steps), CPU))
    return attention.forward(queries, keys, values, batch)


@settings(max_examples=40, deadline=None)
@given(trees(), st.sampled_from(HEADS), st.sampled_from([32, 64, 80]))
def test_reference_equals_the_definition(steps, heads, head_dim):
    keys, values = pool(2000, heads[1], head_dim)
    num_rows = sum(step.end - step.begin for step in steps)
    queries = torch.randn(num_rows, heads[0], head_dim, generator=torch.Generator().manual_seed(1))
    result = attend(steps, queries, keys, values)
    expected = attend_by_definition(steps, queries, keys, values)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head_dim", [32, 64, 128, 40])
@pytest.mark.parametrize("heads", HEADS)
def test_a_rows_bits_do_not_depend_on_company_place_or_slots(heads, head_dim):
    keys, values = pool(2000, heads[1], head_dim)
    rng = np.random.default_rng(0)
    length = 300
    queries = torch.randn(length, heads[0], head_dim, generator=torch.Generator().manual_seed(1))
    slots = rng.permutation(700)[:length].tolist()
    sequence = Sequence([0] * length, slots)
    whole = attend([Step(sequence, 0, length)], queries, keys, values)

    for begin, end in [(0, 1), (299, 300), (63, 65), (64, 128), (17, 23), (100, 300)]:
        part = attend([Step(sequence, begin, end)], queries[begin:end], keys, values)
        assert torch.equal(part, whole[begin:end]), f"rows {begin}..{end - 1} on their own"

    # Other sequences before and behind it, one of which shares its first 130 positions
    others = [
        Step(Sequence([0] * 90, list(range(700, 790))), 0, 90),
        Step(Sequence([0] * 180, slots[:130] + list(range(800, 850))), 130, 180),
        Step(Sequence([0] * 400, list(range(900, 1300))), 399, 400),
    ]
    for index in range(4):
        steps = [*others[:index], Step(sequence, 130, 300), *others[index:]]
        counts = [step.end - step.begin for step in steps]
        noise = torch.randn(sum(counts), heads[0], head_dim)
        begin = sum(counts[:index])
        noise[begin : begin + 170] = queries[130:]
        result = attend(steps, noise, keys, values)
        assert torch.equal(result[begin : begin + 170], whole[130:]), f"as number {index} of four"

    # The same keys and values in other slots
    moved = rng.permutation(np.arange(1300, 2000))[:length].tolist()
    keys[moved], values[moved] = keys[slots], values[slots]
    again = attend([Step(Sequence([0] * length, moved), 0, length)], queries, keys, values)
    assert torch.equal(again, whole)


def test_scores_far_apart_do_not_overflow():
    keys, values = pool(200, 1, 32)
    keys *= 1000.0
    queries = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(1))
    step = Step(Sequence([0] * 200, list(range(200))), 197, 200)
    expected = attend_by_definition([step], queries, keys, values)
    torch.testing.assert_close(attend([step], queries, keys, values).double(), expected, rtol=1e-4, atol=1e-4)


def test_keys_behind_a_row_are_not_seen_even_if_huge():
    keys, values = pool(64, 2, 32)
    queries = torch.randn(10, 4, 32, generator=torch.Generator().manual_seed(1))
    step = Step(Sequence([0] * 64, list(range(64))), 20, 30)
    before = attend([step], queries, keys, values)
    keys[30:], values[30:] = 1e30, torch.nan  # not even keys of the plan
    assert torch.equal(attend([step], queries, keys, values), before)
    keys[25:30], values[25:30] = 1e18, 1e18
    assert torch.equal(attend([step], queries, keys, values)[:5], before[:5])


def test_bfloat16_is_computed_in_float32():
    keys, values = (tensor.bfloat16() for tensor in pool(100, 2, 64))
    queries = torch.randn(8, 4, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    step = Step(Sequence([0] * 100, list(range(100))), 92, 100)
    result = attend([step], queries, keys, values)
    assert result.dtype == torch.bfloat16
    expected = attend_by_definition([step], queries, keys, values)
    torch.testing.assert_close(result.double(), expected, rtol=1e-2, atol=1e-3)
