"""Replayed steps against eager ones and the torch reference, over a graph that only calls its work again."""

import logging

import numpy as np
import pytest
import torch

from attention.plans import Sequence, Step, model_input
from ramet.attention.base import ForwardBatch
from ramet.attention.reference import ReferenceAttention
from ramet.models.llama import LlamaModel
from ramet.runner.forward import EagerForward
from ramet.runner.kv_pool import KVPool
from runner.tiny_models import random_weights, tiny_config

pytest.importorskip("triton")

from ramet.attention.triton import TritonAttention
from ramet.runner.cuda_graph import CudaGraphs, GraphedForward, Recording, padded_rows

HAS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
needs_gpu = pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU")
CONFIG = tiny_config(num_layers=1, hidden_size=32, num_heads=2, num_kv_heads=1, head_dim=16)
NUM_SLOTS = 1500
MODEL = LlamaModel(CONFIG, random_weights(CONFIG), dtype=torch.float32, device=DEVICE)


class RepeatedCalls:
    """`Graphs` without a GPU: what was recorded is called again, with the memory that it had."""

    def __init__(self):
        self.recorded = 0

    def record(self, work):
        work()
        output = work()
        self.recorded += 1
        return Recording(lambda: output.copy_(work()), output)


class NoGraphs:
    def record(self, work):
        raise RuntimeError("operation not permitted when stream is capturing")


def triton_attention():
    return TritonAttention(CONFIG.num_heads, CONFIG.num_kv_heads, CONFIG.head_dim, num_multiprocessors=1)


def filled_pool():
    """A pool in which every slot has a key and a value, so that a read of a wrong one shows."""
    pool = KVPool(CONFIG, NUM_SLOTS, torch.float32, DEVICE)
    generator = torch.Generator().manual_seed(2)
    for tensor in pool.layer(0):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return pool


def contents(pool):
    """Keys and values of all slots that may be read."""
    return torch.stack([tensor[: pool.num_slots].cpu() for tensor in pool.layer(0)])


class Steps:
    """A `GraphedForward` whose buffers are spoilt before each step, and what it is compared with."""

    def __init__(self, **options):
        self.graphs = options.pop("graphs", CudaGraphs(DEVICE) if HAS_CUDA else RepeatedCalls())
        self.pools = filled_pool(), filled_pool(), filled_pool()
        self.graphed = GraphedForward(
            MODEL, triton_attention(), self.pools[0], DEVICE, self.graphs, **options
        )
        self.eager = EagerForward(MODEL, triton_attention(), self.pools[1], DEVICE)
        self.reference = EagerForward(MODEL, ReferenceAttention(), self.pools[2], DEVICE)

    def poison(self):
        """What a step does not fill must not be read. Small numbers are slots and rows that there are."""
        buffers = self.graphed.buffers
        noise = torch.from_numpy(np.random.default_rng(1).integers(0, 8, len(buffers.step), dtype=np.int32))
        buffers.step.copy_(noise)
        buffers.drawn[1:] = 3
        for tensor in (buffers.partials.weighted, buffers.partials.peaks, buffers.partials.totals):
            tensor.fill_(torch.nan)

    def check(self, step, drawn=None):
        """Compute a step in all three ways; returns the hidden states of the replay, of all rows."""
        self.poison()
        num_rows = len(step.input_ids)
        hidden = self.graphed(step, drawn)
        assert torch.isfinite(hidden).all(), "padding rows are not numbers"
        expected = self.reference(step, drawn)
        torch.testing.assert_close(hidden[:num_rows], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(hidden[:num_rows], self.eager(step, drawn), rtol=1e-6, atol=1e-6)
        graphed, eager, reference = map(contents, self.pools)
        torch.testing.assert_close(graphed, eager, rtol=1e-6, atol=1e-6)
        untouched = np.setdiff1d(np.arange(NUM_SLOTS), step.slot_ids)
        assert torch.equal(graphed[:, untouched], reference[:, untouched])
        return hidden


def random_step(rng, num_rows, shared=0, longest=90, drawn=0):
    """Rows that each end a sequence of its own behind a shared context; some ids stand for drawn tokens."""
    free = rng.permutation(NUM_SLOTS).tolist()
    prefix = [free.pop() for _ in range(shared)]
    sequences = []
    for _ in range(num_rows):
        slots = prefix + [free.pop() for _ in range(int(rng.integers(1, max(longest - shared, 2))))]
        tokens = rng.integers(0, CONFIG.vocab_size, len(slots)).tolist()
        if drawn and rng.integers(2):
            tokens[-1] = -1 - int(rng.integers(drawn))
        sequences.append(Sequence(tokens, slots))
    return model_input([Step(s, len(s.slots) - 1, len(s.slots)) for s in sequences])


def drawn_tokens(rng, count):
    return torch.from_numpy(rng.integers(-1, CONFIG.vocab_size, count, dtype=np.int32)).to(DEVICE)


@pytest.mark.parametrize("seed", range(2))
def test_random_steps_equal_eager_ones_and_the_reference(seed):
    rng = np.random.default_rng(seed)
    steps = Steps(max_rows=16)
    for _ in range(7):
        num_rows = int(rng.integers(1, 12))
        drawn = drawn_tokens(rng, 5)
        hidden = steps.check(random_step(rng, num_rows, drawn=5), drawn)
        assert len(hidden) == padded_rows(num_rows)
    assert len(steps.graphed.recordings) < 7, "nothing was ever replayed"


def test_rows_that_share_context_have_graphs_of_their_own():
    rng = np.random.default_rng(0)
    steps = Steps(max_rows=16)
    for shared in (0, 70, 0, 64, 130):  # a wide item must not be left over, nor missing
        steps.check(random_step(rng, 11, shared=shared, longest=140))
    assert sorted(steps.graphed.recordings) == [(16, False), (16, True)]


def test_a_prompt_of_few_rows_is_such_a_step_too():
    slots = np.random.default_rng(0).permutation(NUM_SLOTS)[:140].tolist()
    prompt = Sequence([i % CONFIG.vocab_size for i in range(140)], slots)
    steps = Steps(max_rows=16)
    steps.check(model_input([Step(prompt, 60, 75)]))
    assert list(steps.graphed.recordings) == [(16, True)]


def test_each_step_reads_what_the_one_before_wrote():
    """Sequences that grow: a slot written by one replay is the context of the next."""
    rng = np.random.default_rng(0)
    free = rng.permutation(NUM_SLOTS).tolist()
    sequences = [Sequence([1 + i], [free.pop()]) for i in range(3)]
    steps = Steps()
    drawn = None
    for _ in range(6):
        steps.check(model_input([Step(s, len(s.slots) - 1, len(s.slots)) for s in sequences]), drawn)
        drawn = drawn_tokens(rng, 3)
        for i, sequence in enumerate(sequences):
            sequence.token_ids.append(-1 - i)
            sequence.slots.append(free.pop())


def test_a_token_that_was_not_drawn_counts_as_zero():
    step = model_input([Step(Sequence([-2], [7]), 0, 1)])
    steps = Steps()
    hidden = steps.check(step, torch.tensor([5, -1], dtype=torch.int32, device=DEVICE)).clone()
    known = model_input([Step(Sequence([0], [7]), 0, 1)])
    assert torch.equal(steps.check(known), hidden)


def test_unrelated_slots_keep_what_they_have():
    steps = Steps(max_rows=8)
    before = contents(steps.pools[0])
    step = random_step(np.random.default_rng(0), 5)
    steps.check(step)
    changed = (contents(steps.pools[0]) != before).flatten(2).any(2).any(0)
    assert set(torch.nonzero(changed)[:, 0].tolist()) == set(step.slot_ids.tolist())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"max_rows": 4}, id="rows"),
        pytest.param({"plan_size": 300}, id="plan"),
        pytest.param({"partial_bytes": 4 * CONFIG.num_heads * 18 * 12}, id="partials"),
    ],
)
def test_what_exceeds_a_capacity_runs_eagerly(options):
    rng = np.random.default_rng(0)
    steps = Steps(**options)
    steps.check(random_step(rng, 1, longest=5))
    assert list(steps.graphed.recordings) == [(1, False)]
    assert len(steps.check(random_step(rng, 5, longest=200))) == 5
    assert list(steps.graphed.recordings) == [(1, False)]


def test_ids_may_stand_for_more_drawn_tokens_than_there_is_room_for():
    drawn = drawn_tokens(np.random.default_rng(0), 5000)
    steps = Steps()
    steps.check(model_input([Step(Sequence([-5000], [7]), 0, 1)]), drawn)
    assert not steps.graphed.recordings
    steps.check(model_input([Step(Sequence([-3], [7]), 0, 1)]), drawn)
    assert steps.graphed.recordings


def test_steps_run_eagerly_where_nothing_can_be_recorded(caplog):
    rng = np.random.default_rng(0)
    steps = Steps(graphs=NoGraphs())
    with caplog.at_level(logging.INFO, logger="ramet.runner.cuda_graph"):
        for _ in range(3):
            assert len(steps.check(random_step(rng, 3, longest=10))) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "operation not permitted when stream is capturing" in caplog.text


def test_a_recording_is_announced_once(caplog):
    steps = Steps()
    with caplog.at_level(logging.INFO, logger="ramet.runner.cuda_graph"):
        for _ in range(3):
            steps.check(random_step(np.random.default_rng(0), 3, longest=10))
    assert [record.getMessage()[:34] for record in caplog.records] == ["recorded a CUDA graph of 4 rows in"]


@needs_gpu
def test_ordering_a_step_does_not_wait_for_the_device():
    rng = np.random.default_rng(0)
    step, drawn = random_step(rng, 5, drawn=5), drawn_tokens(rng, 5)
    steps = Steps()
    steps.check(step, drawn)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for forward in (steps.graphed, steps.eager):
            forward(step, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_further_recordings_take_no_further_workspace():
    """Of cuBLAS, 32 MiB on Hopper."""
    matrix = torch.ones(64, 64, device=DEVICE)
    graphs = CudaGraphs(DEVICE)
    kept = [graphs.record(lambda: matrix @ matrix)]
    before = torch.cuda.memory_allocated()
    kept += [graphs.record(lambda: matrix @ matrix) for _ in range(3)]
    assert torch.cuda.memory_allocated() - before < 2**20
    for recording in kept:
        recording.replay()
        assert (recording.output == 64).all()


def test_rows_are_padded_to_few_numbers():
    padded = [padded_rows(n) for n in range(1, 257)]
    assert all(n <= m < n + 16 for n, m in zip(range(1, 257), padded, strict=True))
    assert sorted(set(padded)) == [1, 2, 4, *range(8, 129, 8), *range(144, 257, 16)]


def test_rows_that_read_nothing_become_zeros():
    """Of a step laid out for more rows than it has."""
    attention = triton_attention()
    step = model_input([Step(Sequence([1] * 3, [4, 5, 6]), 0, 3)])
    layout = attention.lay_out(step.segments, 3, 8)
    array = torch.zeros(layout.size, dtype=torch.int32)
    layout.write(array.numpy())
    partials = attention.partials_within(1 << 16, DEVICE)
    partials.weighted.fill_(torch.nan)
    plan = attention.recorded_plan(array.to(DEVICE), partials, has_wide=False)
    rows = torch.zeros(8, dtype=torch.int64, device=DEVICE)
    batch = ForwardBatch(rows, rows, rows, step.segments, plan)
    queries = torch.ones(8, CONFIG.num_heads, CONFIG.head_dim, device=DEVICE)
    attended = attention.forward(queries, *filled_pool().layer(0), batch)
    assert (attended[:3] != 0).all() and (attended[3:] == 0).all()
