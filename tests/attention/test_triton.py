"""Triton's attention against the definition in float64: on a GPU, or else in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.definition import HEADS, attend_by_definition, pool, trees
from attention.plans import Sequence, Step, model_input
from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.models.llama import LlamaModel
from ramet.runner.kv_pool import KVPool
from runner.tiny_models import random_weights, tiny_config

pytest.importorskip("triton")

from ramet.attention.triton import TritonAttention
from ramet.kernels.triton import attention as kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def poisoned_partials(monkeypatch):
    """What a kernel does not write must not be read."""
    empty = torch.empty

    def poisoned(*shape, **options):
        tensor = empty(*shape, **options)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(kernels.torch, "empty", poisoned)


def attend(steps, queries, keys, values, **options):
    attention = TritonAttention(
        queries.shape[1], keys.shape[1], queries.shape[2], num_multiprocessors=4, **options
    )
    batch = attention.plan(ForwardBatch.from_input(model_input(steps), DEVICE))
    tensors = (tensor.to(DEVICE) for tensor in (queries, keys, values))
    return attention.forward(*tensors, batch).cpu()


def random_queries(steps, num_heads, head_dim):
    num_rows = sum(step.end - step.begin for step in steps)
    return torch.randn(num_rows, num_heads, head_dim, generator=torch.Generator().manual_seed(1))


@settings(max_examples=10, deadline=None)  # the interpreter is slow
@given(trees(), st.sampled_from(HEADS), st.sampled_from([32, 80]), st.booleans())
def test_it_equals_the_definition(steps, heads, head_dim, deterministic):
    keys, values = pool(2000, heads[1], head_dim)
    queries = random_queries(steps, heads[0], head_dim)
    expected = attend_by_definition(steps, queries, keys, values)
    result = attend(steps, queries, keys, values, deterministic=deterministic)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)


needs_gpu = pytest.mark.skipif(DEVICE.type == "cpu", reason="Triton's interpreter takes bf16 for integers")


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=needs_gpu)], ids=str)
@pytest.mark.parametrize("head_dim", [64, 256])
def test_half_precision_follows_it(dtype, head_dim):
    """A prompt that is being computed, branches of a longer one, and a sequence by itself, in one step."""
    slots = np.random.default_rng(0).permutation(2000).tolist()
    shared = slots[:700]
    steps = [Step(Sequence([0] * 80, slots[1000:1080]), 0, 80)]
    steps += [
        Step(Sequence([0] * 703, shared + slots[700 + 3 * i : 703 + 3 * i]), 702, 703) for i in range(36)
    ]
    steps += [Step(Sequence([0] * 600, slots[1200:1800]), 599, 600)]
    keys, values = (tensor.to(dtype) for tensor in pool(2000, 2, head_dim))
    queries = random_queries(steps, 8, head_dim).to(dtype)
    result = attend(steps, queries, keys, values)
    assert result.dtype == dtype
    expected = attend_by_definition(steps, queries, keys, values)
    torch.testing.assert_close(result.double(), expected, rtol=2e-2, atol=1e-2)


def test_no_key_counts_twice_where_a_tile_is_not_filled():
    """Three heads a group: a branch begins in the second wide block, where a narrow one might straddle."""
    slots = np.random.default_rng(0).permutation(400).tolist()
    prompt = Sequence([0] * 148, slots[:148])
    branch = Sequence([0] * 66, slots[:64] + slots[200:202])
    keys, values = pool(400, 1, 16)
    for length in (144, 148):
        steps = [Step(prompt, 64, length), Step(branch, 64, 66)]
        queries = random_queries(steps, 3, 16)
        expected = attend_by_definition(steps, queries, keys, values)
        result = attend(steps, queries, keys, values)
        torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)


def test_deterministic_rows_do_not_depend_on_company():
    slots = np.random.default_rng(0).permutation(2000).tolist()
    whole = Sequence([0] * 300, slots[:300])
    branches = [Sequence([0] * 240, slots[:200] + slots[400 + 40 * i : 440 + 40 * i]) for i in range(7)]
    keys, values = pool(2000, 3, 64)
    steps = [Step(whole, 250, 300), *(Step(branch, 239, 240) for branch in branches)]
    queries = random_queries(steps, 9, 64)
    together = attend(steps, queries, keys, values, deterministic=True)
    first_row = 0
    for step in steps:
        rows = slice(first_row, first_row + step.end - step.begin)
        first_row = rows.stop
        alone = attend([step], queries[rows], keys, values, deterministic=True)
        if DEVICE.type == "cuda":
            assert torch.equal(alone, together[rows])
        else:  # the interpreter multiplies with a library whose rounding depends on where a row stands
            torch.testing.assert_close(alone, together[rows], rtol=1e-5, atol=1e-6)


def test_scores_far_apart_do_not_overflow():
    keys, values = pool(200, 1, 32)
    keys *= 1000.0
    steps = [Step(Sequence([0] * 200, list(range(200))), 197, 200)]
    queries = random_queries(steps, 1, 32)
    expected = attend_by_definition(steps, queries, keys, values)
    torch.testing.assert_close(attend(steps, queries, keys, values).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_pool_may_have_another_dtype():
    steps = [Step(Sequence([0] * 100, list(range(100))), 92, 100)]
    keys, values = (tensor.bfloat16() for tensor in pool(100, 2, 64))
    queries = random_queries(steps, 4, 64)
    expected = attend_by_definition(steps, queries, keys, values)
    torch.testing.assert_close(attend(steps, queries, keys, values).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_model_computes_with_it():
    config = tiny_config(context_length=300)
    model = LlamaModel(config, random_weights(config), dtype=torch.float32, device=DEVICE)
    slots = np.random.default_rng(0).permutation(400).tolist()
    prompt = Sequence([(7 * i) % config.vocab_size for i in range(200)], slots[:200])
    branches = [Sequence([*prompt.token_ids, 3 + i], [*prompt.slots, 200 + i]) for i in range(3)]
    steps = [Step(prompt, 0, 200)], [Step(branch, 200, 201) for branch in branches]
    found = []
    triton_attention = TritonAttention(
        config.num_heads, config.num_kv_heads, config.head_dim, num_multiprocessors=4
    )
    for attention in (ReferenceAttention(), triton_attention):
        pool = KVPool(config, 400, torch.float32, DEVICE)
        with torch.inference_mode():
            for step in steps:
                batch = attention.plan(ForwardBatch.from_input(model_input(step), DEVICE))
                logits = model.logits(model.forward(batch, attention, pool))
        found.append(logits)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
