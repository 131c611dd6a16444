"""The sampler against brute force in NumPy, one filter at a time and all together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attention.plans import sampling_of
from ramet.model_io import LogitBias, Penalties
from ramet.runner import sampler
from ramet.runner.sampler import Scores, sample
from ramet.runner.uniform import uniform

CPU = torch.device("cpu")
NO_SCORES = Scores(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))


def run(logits: np.ndarray, rows=None, scores=NO_SCORES, **given):
    """Sample from rows of logits; by default from each row once."""
    logits = np.asarray(logits, dtype=np.float32)
    arrays = {name: np.asarray(v) if isinstance(v, list) else v for name, v in given.items()}
    sampling = sampling_of(range(len(logits)) if rows is None else rows, **arrays)
    return sample(lambda index: torch.from_numpy(logits)[index], logits.shape[1], sampling, scores, CPU)


def f32(*values):
    return np.array(values, dtype=np.float32)


def i32(*values):
    return np.array(values, dtype=np.int32)


def penalties(n, entries, repetition=1.0, frequency=0.0, presence=0.0):
    """The same penalties for ``n`` samples; entries are (sample, token, count in the output)."""
    columns = [i32(*column) for column in zip(*entries, strict=True)] or [i32()] * 3
    return Penalties(f32(*[repetition] * n), f32(*[frequency] * n), f32(*[presence] * n), *columns)


# ------------------------------------------------------------------------------------------- the generator


def test_uniforms_depend_on_seed_and_position_only():
    seeds = np.array([0, 1, 2**63, 2**64 - 1, 0], dtype=np.uint64)
    positions = np.array([0, 5, 7, 2**40, 1], dtype=np.int64)
    together = uniform(seeds, positions)
    alone = [uniform(seeds[i : i + 1], positions[i : i + 1])[0] for i in range(5)]
    assert together.tolist() == alone
    assert len(set(alone)) == 5
    assert ((together >= 0) & (together < 1)).all()


def test_uniforms_are_uniform_along_seeds_and_along_positions():
    count = np.arange(20000)
    for seeds, positions in [(count, count * 0), (count * 0, count), (count, count)]:
        values = uniform(seeds.astype(np.uint64), positions.astype(np.int64))
        observed = np.histogram(values, bins=50, range=(0, 1))[0]
        chi_square = ((observed - 400) ** 2 / 400).sum()
        assert chi_square < 85.4  # 49 degrees of freedom, p = 0.001
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


# ------------------------------------------------------------------------------------------ greedy and bad


def test_greedy_takes_the_first_of_equal_maxima():
    logits = np.zeros((3, 40000))
    logits[1, [17, 39999]] = 2.0
    logits[2, 39999] = 1.0
    assert run(logits).token_ids.tolist() == [0, 17, 39999]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_gives_minus_one_and_spoils_no_other(temperature):
    logits = np.random.default_rng(0).normal(size=(6, 50))
    expected = run(logits, temperature=f32(*[temperature] * 6), top_p=f32(*[0.9] * 6)).token_ids
    logits[1, 7], logits[2, 7], logits[3] = np.nan, np.inf, -np.inf
    logits[4, :25] = -np.inf  # this is allowed
    output = run(
        logits,
        temperature=f32(*[temperature] * 6),
        top_p=f32(*[0.9] * 6),
        num_top_logprobs=i32(0, 1, 1, 1, 2, 0),
    )
    assert output.token_ids[[1, 2, 3]].tolist() == [-1, -1, -1]
    assert output.token_ids[[0, 5]].tolist() == expected[[0, 5]].tolist()
    assert output.token_ids[4] >= 25
    assert np.isnan(output.logprobs[[1, 2, 3]]).all()
    assert np.isfinite(output.logprobs[[0, 4, 5]]).all()


def test_banning_every_token_gives_minus_one():
    bias = LogitBias(i32(0, 0, 0), i32(0, 1, 2), f32(*[-np.inf] * 3))
    assert run(np.zeros((2, 3)), bias=bias).token_ids.tolist() == [-1, 0]


def test_tiny_and_huge_temperatures():
    logits = np.tile(np.array([[1e4, 9e3, -1e4]]), (2, 1))
    drawn = run(logits, temperature=f32(1e-38, 1e30), seeds=np.array([3, 4], dtype=np.uint64))
    assert drawn.token_ids[0] == 0
    assert drawn.token_ids[1] >= 0


# ----------------------------------------------------------------------------------- penalties and bias


def test_repetition_divides_positive_and_multiplies_negative_logits():
    seen = penalties(1, [(0, 0, 0), (0, 1, 3)], repetition=2.0)
    # 4 / 2 < 3; -1 * 2 < -1.5
    assert run([[4.0, -9.0, 3.0]], penalties=seen).token_ids.tolist() == [2]
    assert run([[-9.0, -1.0, -1.5]], penalties=seen).token_ids.tolist() == [2]
    assert run([[7.0, -9.0, 3.0]], penalties=seen).token_ids.tolist() == [0]


def test_frequency_counts_and_presence_does_not():
    entries = [(0, 0, 3), (0, 1, 0), (1, 0, 3), (1, 1, 0)]
    logits = [[3.0, 1.2, 2.0], [3.0, 1.2, 2.0]]
    # 3 - 3 * 0.5 = 1.5 < 2; 3 - 0.5 = 2.5 > 2; a token only in the prompt keeps its logit
    assert run(logits, penalties=penalties(2, entries, frequency=0.5)).token_ids.tolist() == [2, 2]
    assert run(logits, penalties=penalties(2, entries, presence=0.5)).token_ids.tolist() == [0, 0]
    prompt_only = penalties(2, [(0, 0, 0)], presence=2.0, frequency=2.0)
    assert run(logits, penalties=prompt_only).token_ids.tolist() == [0, 0]


def test_penalties_come_before_bias():
    bias = LogitBias(i32(0), i32(1), f32(3.0))
    seen = penalties(1, [(0, 1, 1)], repetition=4.0)
    # Token 1: 2 / 4 + 3 = 3.5 > 3; the other way round it would be (2 + 3) / 4
    assert run([[3.0, 2.0]], penalties=seen, bias=bias).token_ids.tolist() == [1]


# ------------------------------------------------------------------------------------------ the bitmask


def bitmask(vocab_size, *allowed):
    """One row of bits per sample, from the token ids it allows."""
    words = np.zeros((len(allowed), -(-vocab_size // 32)), dtype=np.uint32)
    for sample_words, token_ids in zip(words, allowed, strict=True):
        for token in token_ids:
            sample_words[token // 32] |= np.uint32(1 << token % 32)
    return words


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bitmask_allows_only_the_tokens_whose_bit_is_set(temperature):
    logits = np.random.default_rng(10).normal(size=(4, 100))
    logits[3, 9] = np.nan  # not allowed, so it does not matter
    allowed = [[31], [32, 99], [], [0, 64]]
    drawn = run(
        logits,
        temperature=f32(*[temperature] * 4),
        bitmask=bitmask(100, *allowed),
        num_top_logprobs=i32(*[0] * 4),
    )
    assert drawn.token_ids[0] == 31
    assert drawn.token_ids[1] in (32, 99)
    assert drawn.token_ids[2] == -1
    assert drawn.token_ids[3] in (0, 64)
    assert drawn.logprobs[0] == pytest.approx(log_softmax(logits[0])[31], abs=1e-5)  # of the raw logits


def test_a_bitmask_comes_after_bias_and_before_top_k():
    bias = LogitBias(i32(0, 0), i32(0, 2), f32(50, 10))
    drawn = run(
        [[1.0, 2.0, 3.0, 4.0]], bias=bias, bitmask=bitmask(4, [1, 2]), temperature=f32(1), top_k=i32(1)
    )
    assert drawn.token_ids.tolist() == [2]


def test_a_bitmask_of_all_ones_changes_nothing():
    logits = np.random.default_rng(11).normal(size=(20, 70))
    ones = np.full((20, 3), 2**32 - 1, dtype=np.uint32)
    given = {"temperature": f32(*[0, 1] * 10), "top_p": f32(*[0.9] * 20)}
    assert np.array_equal(run(logits, **given).token_ids, run(logits, bitmask=ones, **given).token_ids)


# ------------------------------------------------------------------------------------ the distribution


def distribution(logits, temperature, top_k, top_p, min_p):
    """What `sample` draws from, by brute force: (probabilities, whether a cut was too close to call)."""
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    p = np.exp(scaled) / np.exp(scaled).sum()
    order = sorted(range(len(p)), key=lambda t: (-logits[t], t))
    kept = order[:top_k] if top_k > 0 else list(order)
    mass = sum(p[t] for t in kept)
    close = False
    if top_p < 1:
        nucleus, reached = [], 0.0
        for token in kept:
            nucleus.append(token)
            reached += p[token] / mass
            close |= abs(reached - top_p) < 1e-5
            if reached >= top_p:
                break
        kept = nucleus
    close |= bool(min_p > 0 and (np.abs(p / p.max() - min_p) < 1e-5).any())
    kept = [t for t in kept if p[t] >= min_p * p.max()]
    result = np.zeros(len(p))
    result[kept] = p[kept] / p[kept].sum()
    return result, close


filters = {
    "top_k": st.integers(0, 25),
    "top_p": st.one_of(st.just(1.0), st.floats(2**-7, 1 - 2**-10, width=32)),
    "min_p": st.one_of(st.just(0.0), st.floats(2**-10, 1.0, width=32)),
}


@settings(max_examples=150, deadline=None)
@given(
    logits=hnp.arrays(np.float32, 20, elements=st.integers(-40, 40).map(lambda i: np.float32(i / 8))),
    temperature=st.floats(0.25, 4, width=32),
    seed=st.integers(0, 2**64 - 1),
    **filters,
)
def test_a_draw_inverts_the_filtered_distribution(logits, temperature, seed, top_k, top_p, min_p):
    """With many positions of one seed, each token is the one whose share of [0, 1) the uniform falls in."""
    expected, close = distribution(logits, temperature, top_k, top_p, min_p)
    if close:
        return
    n = 30
    positions = np.arange(n, dtype=np.int64)
    seeds = np.full(n, seed, dtype=np.uint64)
    drawn = run(
        logits[None],
        rows=[0] * n,
        temperature=np.full(n, temperature, dtype=np.float32),
        top_k=np.full(n, top_k, dtype=np.int32),
        top_p=np.full(n, top_p, dtype=np.float32),
        min_p=np.full(n, min_p, dtype=np.float32),
        seeds=seeds,
        positions=positions,
    ).token_ids
    edges = np.concatenate(([0.0], expected.cumsum()))
    for token, u in zip(drawn, uniform(seeds, positions), strict=True):
        assert expected[token] > 0
        assert edges[token] - 1e-5 <= u <= edges[token + 1] + 1e-5


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(0, 1.0, 0.0), (8, 0.9, 0.0), (0, 0.8, 0.1)])
def test_frequencies_of_draws_follow_the_distribution(top_k, top_p, min_p):
    logits = np.random.default_rng(5).normal(size=(1, 30)).astype(np.float32) * 1.5
    expected, _ = distribution(logits[0], 0.8, top_k, top_p, min_p)
    n = 8000
    drawn = run(
        logits,
        rows=[0] * n,
        temperature=np.full(n, 0.8, dtype=np.float32),
        top_k=np.full(n, top_k, dtype=np.int32),
        top_p=np.full(n, top_p, dtype=np.float32),
        min_p=np.full(n, min_p, dtype=np.float32),
        seeds=np.arange(n, dtype=np.uint64),
    ).token_ids
    counts = np.bincount(drawn, minlength=30)
    assert counts[expected == 0].sum() == 0
    likely = expected * n >= 5
    chi_square = ((counts[likely] - expected[likely] * n) ** 2 / (expected[likely] * n)).sum()
    freedom = likely.sum() - 1
    assert chi_square < freedom + 3.1 * np.sqrt(2 * freedom) + 5  # about p = 0.001


def test_a_filter_that_removes_nothing_changes_no_draw():
    logits = np.random.default_rng(6).normal(size=(200, 100))
    plain = run(logits, temperature=f32(*[1.0] * 200)).token_ids
    same = run(logits, temperature=f32(*[1.0] * 200), top_k=i32(*[100] * 200), min_p=f32(*[1e-9] * 200))
    assert np.array_equal(plain, same.token_ids)


# ----------------------------------------------------------------------------------- logprobs and scores


def log_softmax(row):
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def test_logprobs_are_of_the_raw_logits():
    logits = np.random.default_rng(7).normal(size=(3, 40)).astype(np.float32)
    bias = LogitBias(i32(0, 1, 2), i32(5, 5, 5), f32(100, 100, 100))
    output = run(
        logits, bias=bias, temperature=f32(0, 0.3, 0), num_top_logprobs=i32(3, 0, -1), rows=[2, 1, 1]
    )
    assert output.token_ids.tolist() == [5, 5, 5]
    assert output.logprobs[:2] == pytest.approx(
        [log_softmax(logits[2])[5], log_softmax(logits[1])[5]], abs=1e-5
    )
    assert np.isnan(output.logprobs[2])
    best = np.argsort(-logits[2])[:3]
    assert output.top_token_ids[0].tolist() == best.tolist()
    assert output.top_logprobs[0] == pytest.approx(log_softmax(logits[2])[best], abs=1e-5)
    assert output.top_logprobs.shape == (3, 3)


def test_more_top_logprobs_than_tokens():
    output = run([[1.0, 3.0, 2.0]], num_top_logprobs=i32(5))
    assert output.top_token_ids[0, :3].tolist() == [1, 2, 0]
    assert np.isneginf(output.top_logprobs[0, 3:]).all()


def test_blocks_change_nothing(monkeypatch):
    """Logits come in blocks of bounded size, each row once, and the result is the same."""
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(50, 64)).astype(np.float32)
    rows = rng.integers(0, 50, 30)
    scores = Scores(rng.integers(0, 50, 70).astype(np.int32), rng.integers(0, 64, 70).astype(np.int32))
    entries = [(s, t, t % 3) for s in range(30) for t in rng.choice(64, 5, replace=False).tolist()]
    given = {
        "temperature": f32(*[0, 1, 0.5] * 10),
        "top_p": f32(*[0.9, 1] * 15),
        "num_top_logprobs": i32(*[2, -1, 0] * 10),
        "penalties": penalties(30, entries, repetition=1.3, frequency=0.2, presence=0.1),
        "bias": LogitBias(i32(*range(30)), i32(*range(30)), f32(*[2.0] * 30)),
        "bitmask": rng.integers(1, 2**32, (30, 2), dtype=np.uint32),
    }
    whole = run(logits, rows, scores, **given)
    monkeypatch.setattr(sampler, "BLOCK_BYTES", 7 * 64 * 4)
    asked = []

    def logits_of(index):
        asked.extend(index.tolist())
        return torch.from_numpy(logits)[index]

    blocks = sample(logits_of, 64, sampling_of(rows, **given), scores, CPU)
    assert sorted(asked) == sorted({*rows.tolist(), *scores.rows.tolist()})
    for name in ("token_ids", "logprobs", "top_token_ids", "top_logprobs", "score_logprobs"):
        assert np.array_equal(getattr(whole, name), getattr(blocks, name), equal_nan=name == "logprobs"), name
    expected = [log_softmax(logits[row])[t] for row, t in zip(scores.rows, scores.token_ids, strict=True)]
    assert whole.score_logprobs == pytest.approx(expected, abs=1e-5)


def test_nothing_to_sample():
    output = run(np.zeros((2, 8)), rows=[])
    assert output.token_ids.shape == output.score_logprobs.shape == (0,)


def test_a_large_vocabulary_is_row_independent():
    logits = np.random.default_rng(9).normal(size=(5, 50021)).astype(np.float32) * 3
    given = {
        "temperature": f32(1, 0.7, 0, 1, 1),
        "top_p": f32(1, 0.95, 1, 1, 0.5),
        "top_k": i32(0, 0, 0, 50, 0),
        "num_top_logprobs": i32(0, 4, 1, 0, 0),
        "seeds": np.arange(5, dtype=np.uint64),
    }
    batch = run(logits, **given)
    for row in range(5):
        alone = run(logits, rows=[row], **{name: values[row : row + 1] for name, values in given.items()})
        assert alone.token_ids[0] == batch.token_ids[row]
        assert alone.logprobs[0] == batch.logprobs[row]
