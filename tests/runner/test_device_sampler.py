"""Sampling by Triton's kernels against the reference: on a GPU, or else in Triton's interpreter."""

import numpy as np
import pytest
import torch

from attention.plans import sampling_of
from ramet.model_io import LogitBias
from ramet.runner import sampler
from ramet.runner.sampler import Scores

pytest.importorskip("triton")

from ramet.kernels.triton import likeliest
from ramet.kernels.triton import sampling as kernels
from ramet.runner.device_sampler import draw
from ramet.runner.parts import MAX_VOCAB
from ramet.runner.uniform import uniform
from runner.device_draws import (
    DEVICE,
    FIELDS,
    assert_same,
    both,
    close_calls,
    f32,
    i32,
    many,
    random_bias,
    random_bitmask,
    random_penalties,
    scores_of,
)

# Tiny temperatures make infinite distances and bad rows make NaN: of both NumPy warns in the interpreter
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """What a kernel does not write must not be read."""
    empty = torch.empty

    def poisoned(*shape, **options):
        tensor = empty(*shape, **options)
        dtype = tensor.dtype
        return tensor.fill_(
            torch.nan if dtype.is_floating_point else 0x5B if dtype == torch.uint8 else torch.iinfo(dtype).max
        )

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def small_blocks(monkeypatch):
    """A vocabulary of hundreds is several blocks instead of one."""
    monkeypatch.setattr(kernels, "BLOCK", 256)
    monkeypatch.setattr(likeliest, "CHUNK", 256)


# ------------------------------------------------------------------------------------ all that may be asked


CHANGES = {
    "nothing": {},
    "bitmask": {"bitmask": random_bitmask},
    "bias": {"bias": random_bias},
    "penalties": {"penalties": random_penalties},
    "everything": {"bitmask": random_bitmask, "bias": random_bias, "penalties": random_penalties},
}
FILTERS = {
    "none": {},
    "top-k": {"top_k": i32(0, 1, 2, 40, 500, 10**6)},
    "top-p": {"top_p": f32(1, 0.02, 0.5, 0.9, 0.999)},
    "min-p": {"min_p": f32(0, 0.01, 0.3, 1)},
    "all": {"top_k": i32(0, 5, 40, 500), "top_p": f32(1, 0.5, 0.95), "min_p": f32(0, 0.02)},
}


@pytest.mark.parametrize(
    ("change", "filtered"),
    [(change, "none") for change in CHANGES]
    + [("nothing", filtered) for filtered in FILTERS if filtered != "none"]
    + [("everything", "all")],
)
def test_kernels_draw_what_the_reference_draws(change, filtered, small_blocks):
    rng = np.random.default_rng([list(CHANGES).index(change), list(FILTERS).index(filtered)])
    vocab_size, n = 501, 20
    logits = rng.normal(size=(5, vocab_size)) * [[1], [3], [10], [2], [0.1]]
    logits[3] = np.round(logits[3] * 4) / 4  # many are equal, as where they were computed in bfloat16
    sampling, expected, output = both(
        logits,
        rows=rng.integers(0, 5, n),
        scores=Scores(
            rng.integers(0, 5, 9).astype(np.int32), rng.integers(0, vocab_size, 9).astype(np.int32)
        ),
        temperature=rng.choice(f32(0, 1e-38, 0.3, 1, 1.7, 1e30), n, p=[0.1, 0.1, 0.2, 0.3, 0.2, 0.1]),
        seeds=rng.integers(0, 2**63, n).astype(np.uint64),
        positions=rng.integers(0, 10**6, n),
        num_top_logprobs=np.full(n, -1, dtype=np.int32),
        **{name: random_of(rng, n, vocab_size) for name, random_of in CHANGES[change].items()},
        **{name: rng.choice(values, n) for name, values in FILTERS[filtered].items()},
    )
    assert_same(expected, output, except_tokens_of=close_calls(logits, sampling, expected, output))


def test_a_vocabulary_as_large_as_that_of_a_model():
    rng = np.random.default_rng(20)
    logits = rng.normal(size=(4, 49152)).astype(np.float32) * 3
    given = {
        "temperature": f32(0, 1, 0.8, 1),
        "top_p": f32(1, 1, 0.9, 1),
        "seeds": np.arange(4, dtype=np.uint64),
        "num_top_logprobs": i32(0, 3, 20, -1),
        "bitmask": random_bitmask(rng, 4, 49152),
    }
    sampling, expected, output = both(logits, scores=scores_of([3, 0], [49151, 0]), **given)
    assert_same(expected, output, except_tokens_of=close_calls(logits, sampling, expected, output))


def test_of_equally_likely_tokens_the_first_are_kept(small_blocks):
    """All but two have the same logit, in several blocks."""
    logits = np.zeros((1, 700))
    likeliest = [650, 690]
    logits[0, likeliest] = 1.0
    top_k = i32(1, 3, 300, 300, 699, 699, 699)
    n = len(top_k)
    for first in (0, 10):
        _, expected, output = both(
            logits,
            rows=[0] * n,
            temperature=np.full(n, 1, dtype=np.float32),
            top_k=top_k,
            positions=np.arange(first, first + n),
        )
        ordered = likeliest + [token for token in range(700) if token not in likeliest]
        for token, count in zip(output.token_ids, top_k, strict=True):
            assert token in ordered[:count]
        assert np.array_equal(expected.token_ids, output.token_ids)


def test_frequencies_of_draws_follow_the_distribution(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 16)
    logits = np.random.default_rng(5).normal(size=30) * 1.5
    n, min_p = 500, 0.03
    _, _, output = both(
        logits[None],
        rows=[0] * n,
        temperature=np.full(n, 0.8, dtype=np.float32),
        min_p=np.full(n, min_p, dtype=np.float32),
        seeds=np.arange(n, dtype=np.uint64),
    )
    weights = np.exp((logits - logits.max()) / 0.8)
    weights[weights < min_p] = 0
    counts, expected = np.bincount(output.token_ids, minlength=30), n * weights / weights.sum()
    assert counts[expected == 0].sum() == 0
    likely = expected >= 5
    chi_square = ((counts[likely] - expected[likely]) ** 2 / expected[likely]).sum()
    freedom = likely.sum() - 1
    assert chi_square < freedom + 3.1 * np.sqrt(2 * freedom) + 5  # about p = 0.001


# --------------------------------------------------------------------------------------- rows that are bad


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_row_that_is_not_finite_gives_minus_one_and_spoils_no_other(temperature, top_p, small_blocks):
    logits = np.random.default_rng(0).normal(size=(6, 600))
    logits[1, 299], logits[2, 7], logits[3] = np.nan, np.inf, -np.inf
    logits[4, :525] = -np.inf  # this is allowed
    _, expected, output = both(
        logits,
        temperature=f32(*[temperature] * 6),
        top_p=f32(*[top_p] * 6),
        num_top_logprobs=i32(0, 1, 1, 1, 2, 0),
        scores=scores_of([0, 1, 2, 3, 4], [5, 6, 8, 9, 3]),
    )
    assert output.token_ids[[1, 2, 3]].tolist() == [-1, -1, -1]
    assert output.token_ids[4] >= 525
    assert np.isnan(output.logprobs[[1, 2, 3]]).all()
    assert_same(expected, output)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_may_not_be_drawn_does_not_matter(temperature):
    logits = np.random.default_rng(10).normal(size=(4, 100))
    logits[3, 9] = np.nan
    bitmask = np.zeros((4, 4), dtype=np.uint32)
    bitmask[0, 0] = 1 << 31
    bitmask[1, [1, 3]] = 1, 1 << 3
    bitmask[3, [0, 2]] = 1, 1
    _, expected, output = both(logits, temperature=f32(*[temperature] * 4), bitmask=bitmask)
    assert output.token_ids[0] == 31
    assert output.token_ids[1] in (32, 99)
    assert output.token_ids[2] == -1
    assert output.token_ids[3] in (0, 64)
    assert_same(expected, output)


def test_banning_every_token_gives_minus_one():
    bias = LogitBias(i32(0, 0, 0), i32(0, 1, 2), f32(*[-np.inf] * 3))
    _, _, output = both(np.zeros((2, 3)), bias=bias)
    assert output.token_ids.tolist() == [-1, 0]


def test_biases_of_the_same_token_add_up():
    bias = LogitBias(i32(1, 0, 1, 1), i32(2, 2, 2, 0), f32(2, 2, 2, 3))
    _, _, output = both(np.zeros((2, 3)), bias=bias)
    assert output.token_ids.tolist() == [2, 2]


# --------------------------------------------------------------------------------------- logprobs, company


def test_logprobs_are_of_the_raw_logits():
    logits = np.random.default_rng(7).normal(size=(3, 40)) * 4
    _, expected, output = both(
        logits,
        rows=[2, 1, 1, 0],
        bias=LogitBias(i32(0, 1, 2), i32(5, 5, 5), f32(100, 100, 100)),
        temperature=f32(0, 0.3, 0, 0),
        num_top_logprobs=i32(3, 0, -1, 50),
        scores=scores_of([0, 2, 0], [39, 0, 1]),
    )
    assert output.token_ids[:3].tolist() == [5, 5, 5]
    assert np.isnan(output.logprobs[2])
    assert output.top_logprobs.shape == (4, 50)
    assert np.isneginf(output.top_logprobs[3, 40:]).all()
    assert_same(expected, output)


def test_of_equal_top_logprobs_the_first_tokens_are_taken():
    logits = np.zeros((2, 500))
    logits[1, [80, 499]] = 1.0, -0.0
    _, _, output = both(logits, num_top_logprobs=i32(3, 4))
    assert output.top_token_ids.tolist() == [[0, 1, 2, 0], [80, 0, 1, 2]]


def test_blocks_of_rows_change_nothing(monkeypatch):
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(50, 64)).astype(np.float32)
    rows = rng.integers(0, 50, 30)
    scores = Scores(rng.integers(0, 50, 70).astype(np.int32), rng.integers(0, 64, 70).astype(np.int32))
    monkeypatch.setattr(kernels, "BLOCK", 64)
    monkeypatch.setattr(likeliest, "CHUNK", 64)
    sampling, _, whole = both(logits, rows, scores, **many(rng, 64))
    monkeypatch.setattr(sampler, "BLOCK_BYTES", 7 * 64 * 4)
    asked = []

    def logits_of(index):
        assert index.dtype == torch.int64
        asked.extend(index.tolist())
        return torch.from_numpy(logits).to(DEVICE)[index]

    blocks = draw(logits_of, 64, sampling, scores, DEVICE).collect()
    assert sorted(asked) == sorted({*rows.tolist(), *scores.rows.tolist()})
    for field in FIELDS:
        assert np.array_equal(getattr(whole, field), getattr(blocks, field), equal_nan=field == "logprobs"), (
            field
        )


def test_many_samples_of_one_row_are_drawn_in_parts(monkeypatch):
    logits = np.random.default_rng(12).normal(size=(1, 40))
    n = 25
    given = {"temperature": np.full(n, 1, dtype=np.float32), "positions": np.arange(n)}
    given |= {"top_k": np.full(n, 6, dtype=np.int32), "bias": random_bias(np.random.default_rng(13), n, 40)}
    monkeypatch.setattr(kernels, "BLOCK", 32)
    monkeypatch.setattr(likeliest, "CHUNK", 32)
    monkeypatch.setattr(sampler, "BLOCK_BYTES", 8 * 40 * 4)
    assert_same(*both(logits, rows=[0] * n, **given)[1:])


def test_a_sample_is_the_same_in_any_company_and_any_tiling(monkeypatch):
    rng = np.random.default_rng(9)
    logits = torch.from_numpy(rng.normal(size=(50, 333)).astype(np.float32)).to(DEVICE)
    sampling = sampling_of(rng.integers(0, 50, 30), **many(rng, 333))

    def drawn(of):
        return draw(lambda index: logits[index], 333, of, scores_of(), DEVICE).collect()

    monkeypatch.setattr(kernels, "BLOCK", 128)
    monkeypatch.setattr(likeliest, "CHUNK", 64)
    together = drawn(sampling)
    monkeypatch.setattr(kernels, "BLOCK", 512)
    monkeypatch.setattr(likeliest, "CHUNK", 512)
    for number in range(0, 30, 3):
        alone = drawn(sampler._take(sampling, np.array([number])))
        assert alone.token_ids[0] == together.token_ids[number]
        assert np.array_equal(alone.logprobs[0], together.logprobs[number], equal_nan=True)
        width = alone.top_token_ids.shape[1]
        assert np.array_equal(alone.top_token_ids[0], together.top_token_ids[number, :width])


def test_logits_may_be_bfloat16(small_blocks):
    rng = np.random.default_rng(14)
    narrow = torch.from_numpy(rng.normal(size=(50, 100)).astype(np.float32)).to(torch.bfloat16)
    sampling = sampling_of(rng.integers(0, 50, 30), **many(rng, 100))
    scores = scores_of([3, 4], [0, 99])

    def drawn(logits):
        return draw(lambda index: logits[index], 100, sampling, scores, DEVICE).collect()

    of_narrow, of_wide = drawn(narrow.to(DEVICE)), drawn(narrow.float().to(DEVICE))
    for field in FIELDS:
        assert np.array_equal(
            getattr(of_narrow, field), getattr(of_wide, field), equal_nan=field == "logprobs"
        )


def test_the_largest_vocabulary_may_be_equally_likely_throughout():
    logits = torch.zeros(1, MAX_VOCAB, device=DEVICE)
    sampling = sampling_of([0, 0], temperature=f32(1, 1))
    output = draw(lambda index: logits[index], MAX_VOCAB, sampling, scores_of(), DEVICE).collect()
    expected = uniform(sampling.seeds, sampling.positions) * MAX_VOCAB
    assert output.token_ids.tolist() == expected.astype(int).tolist()


def test_nothing_to_sample():
    _, expected, output = both(np.zeros((2, 8)), rows=[])
    assert_same(expected, output)


def test_scores_alone():
    logits = np.random.default_rng(15).normal(size=(4, 50))
    _, expected, output = both(logits, rows=[], scores=scores_of([3, 1, 3], [0, 49, 7]))
    assert_same(expected, output)


# ------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU computes while Python goes on")
def test_nothing_waits_for_the_device_before_results_are_collected():
    rng = np.random.default_rng(16)
    logits = torch.from_numpy(rng.normal(size=(50, 5000)).astype(np.float32)).to(DEVICE)
    everything = sampling_of(rng.integers(0, 50, 30), **many(rng, 5000))
    greedy = sampling_of(range(50))
    scores = scores_of([3, 4], [0, 99])

    def logits_of(index):
        return logits.index_select(0, index)

    before = [draw(logits_of, 5000, sampling, scores, DEVICE).collect() for sampling in (everything, greedy)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = [draw(logits_of, 5000, sampling, scores, DEVICE) for sampling in (everything, greedy)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for expected, later in zip(before, drawn, strict=True):
        assert np.array_equal(expected.token_ids, later.collect().token_ids)
