"""The native sampler against the one in torch, on every instruction set this CPU has."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec import structs

from attention.plans import sampling_of
from ramet import kernels
from ramet.model_io import LogitBias, ModelOutput, Penalties
from ramet.runner import filters
from ramet.runner.native_sampler import BLOCK_BYTES, empty_output, uniforms_of
from ramet.runner.sampler import Scores
from ramet.runner.sampler import sample as torch_sample
from ramet.runner.uniform import uniform

NATIVE = kernels.load_native()
if NATIVE is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

TEAMS = {threads: NATIVE.Team(threads) for threads in (1, 2)}
FIELDS = ("token_ids", "logprobs", "top_token_ids", "top_logprobs", "score_logprobs")
EPSILON = 1e-6  # of a probability: as far as rounding may move a boundary


@pytest.fixture(params=[(isa, threads) for isa in NATIVE.supported_isas() for threads in TEAMS], ids=str)
def machine(request):
    isa, threads = request.param
    return TEAMS[threads], isa


def f32(*values):
    return np.array(values, dtype=np.float32)


def i32(*values):
    return np.array(values, dtype=np.int32)


def run(machine, logits, rows=None, score_rows=(), score_token_ids=(), block_bytes=BLOCK_BYTES, **arrays):
    """Sample from rows of logits; by default from each row once."""
    logits = np.asarray(logits, dtype=np.float32)
    sampling = sampling_of(range(len(logits)) if rows is None else rows, **arrays)
    wanted = np.unique(np.concatenate((sampling.rows, i32(*score_rows))))
    output = empty_output(sampling, len(score_rows))
    NATIVE.Sampler(*machine, block_bytes).sample_logits(
        logits[wanted],
        wanted,
        sampling,
        uniforms_of(sampling),
        i32(*score_rows),
        i32(*score_token_ids),
        output,
    )
    return output


def draw(machine, row, uniforms, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """One token from the same row of logits for each uniform."""
    n = len(uniforms)
    sampling = sampling_of(
        [0] * n,
        temperature=np.full(n, temperature, dtype=np.float32),
        top_k=np.full(n, top_k, dtype=np.int32),
        top_p=np.full(n, top_p, dtype=np.float32),
        min_p=np.full(n, min_p, dtype=np.float32),
    )
    output = empty_output(sampling, 0)
    NATIVE.Sampler(*machine, BLOCK_BYTES).sample_logits(
        row[None], i32(0), sampling, np.asarray(uniforms), i32(), i32(), output
    )
    return output.token_ids


def kept_probabilities(row, temperature, top_k, top_p, min_p):
    """(What the torch sampler draws from, float64; whether a cut is too close to call)."""
    scaled = ((torch.from_numpy(row) - row.max()) / np.float32(temperature))[None]
    kept = scaled.clone()
    close = False
    if 0 < top_k < len(row) or top_p < 1:
        limit = torch.tensor([top_p if top_p < 1 else np.inf], dtype=torch.float64)
        kept = filters.drop_unlikely(kept, torch.tensor([top_k]), limit)
        ordered = np.sort(scaled[0].double().numpy())[::-1][: top_k or None]
        shares = np.exp(ordered) / np.exp(ordered).sum()
        near = np.abs(shares.cumsum() - np.float32(top_p)) < EPSILON
        close = top_p < 1 and bool((shares[near] > EPSILON).any() or (shares[1:][near[:-1]] > EPSILON).any())
    if min_p > 0:
        kept = filters.drop_below(kept, f32_tensor(min_p))
        close |= bool((np.abs(np.exp(scaled.double().numpy()) / min_p - 1) < 1e-5).any())
    weights = torch.exp(kept[0].double()).numpy()
    return weights / weights.sum(), close


def f32_tensor(value):
    return torch.tensor([value], dtype=torch.float32)


def check_draws(machine, row, temperature, expected, most=200, **given_filters):
    """Just inside both edges of its share of [0, 1), each token is drawn: what is kept is the same set."""
    edges = np.concatenate(([0.0], expected.cumsum()))
    tokens = np.flatnonzero(expected > 8 * EPSILON)
    if len(tokens) > most:  # the unlikeliest, which are the closest to being cut, and some others
        unlikeliest = tokens[np.argsort(expected[tokens])[: most // 2]]
        tokens = np.concatenate((unlikeliest, tokens[:: 2 * len(tokens) // most]))
    inside = np.concatenate((edges[tokens] + 2 * EPSILON, edges[tokens + 1] - 2 * EPSILON))
    drawn = draw(machine, row, inside, temperature, **given_filters)
    assert drawn.tolist() == [*tokens.tolist(), *tokens.tolist()]


eighths = st.integers(-60, 60).map(lambda i: np.float32(i / 8))
values = st.one_of(eighths, eighths, eighths, st.just(np.float32(-np.inf)))
rows_of_logits = st.integers(1, 40).flatmap(lambda n: hnp.arrays(np.float32, n, elements=values))
some_filters = {
    "top_k": st.integers(0, 45),
    "top_p": st.one_of(st.just(1.0), st.floats(2**-7, 1 - 2**-10, width=32)),
    "min_p": st.one_of(st.just(0.0), st.floats(2**-10, 1.0, width=32)),
}


# --------------------------------------------------------------------------------- against the torch sampler


@settings(max_examples=60, deadline=None)
@given(row=rows_of_logits, temperature=st.floats(0.25, 4, width=32), **some_filters)
def test_what_is_kept_is_what_the_torch_sampler_keeps(row, temperature, top_k, top_p, min_p):
    assume(np.isfinite(row.max()))
    expected, close = kept_probabilities(row, temperature, top_k, top_p, min_p)
    assume(not close)
    for isa in NATIVE.supported_isas():
        check_draws((TEAMS[1], isa), row, temperature, expected, top_k=top_k, top_p=top_p, min_p=min_p)


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 1.0, 0.0), (1, 1.0, 0.0), (50, 1.0, 0.0), (6000, 1.0, 0.0), (0, 0.3, 0.0), (0, 0.95, 0.0),
        (0, 0.9999, 0.0), (0, 1.0, 0.02), (40, 0.8, 0.0), (0, 0.9, 0.1), (300, 0.9, 0.05),
    ],
)  # fmt: skip
@pytest.mark.parametrize("spread", [0.01, 1.5, 4.0])
def test_a_large_vocabulary_is_cut_the_same_way(top_k, top_p, min_p, spread):
    rng = np.random.default_rng(3)
    row = (rng.normal(size=50021) * spread).astype(np.float32)
    row[rng.integers(0, 50021, 30)] += 3
    row[rng.integers(0, 50021, 2000)] = np.round(row[0], 1)  # many equal ones
    expected, close = kept_probabilities(row, 1.0, top_k, top_p, min_p)
    while close:
        top_p = float(np.float32(top_p - 1e-4))
        expected, close = kept_probabilities(row, 1.0, top_k, top_p, min_p)
    for isa in NATIVE.supported_isas():
        check_draws((TEAMS[1], isa), row, 1.0, expected, top_k=top_k, top_p=top_p, min_p=min_p)


def coordinates(draw_from, n, vocab_size, last):
    """Entries (sample, token, ..) of a sparse matrix, each place once."""
    places = st.tuples(st.integers(0, n - 1), st.integers(0, vocab_size - 1))
    entries = draw_from(st.lists(st.tuples(places, last), max_size=12, unique_by=lambda entry: entry[0]))
    return [i32(*(place[axis] for place, _ in entries)) for axis in (0, 1)], [value for _, value in entries]


@st.composite
def steps(draw_from):
    """(logits, arrays of a sampling, score rows, score tokens), with everything a sampling can have."""
    num_rows, vocab_size, n = (draw_from(st.integers(*limits)) for limits in ((1, 4), (1, 40), (1, 6)))
    logits = draw_from(hnp.arrays(np.float32, (num_rows, vocab_size), elements=values))
    for bad in draw_from(st.lists(st.sampled_from([np.nan, np.inf]), max_size=1)):
        logits[draw_from(st.integers(0, num_rows - 1)), draw_from(st.integers(0, vocab_size - 1))] = bad

    def per_sample(elements, dtype):
        return draw_from(hnp.arrays(dtype, n, elements=elements))

    arrays = {
        "rows": per_sample(st.integers(0, num_rows - 1), np.int32),
        "temperature": per_sample(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]), np.float32),
        "top_k": per_sample(some_filters["top_k"], np.int32),
        "top_p": per_sample(some_filters["top_p"], np.float32),
        "min_p": per_sample(some_filters["min_p"], np.float32),
        "seeds": per_sample(st.integers(0, 2**64 - 1), np.uint64),
        "positions": per_sample(st.integers(0, 2**40), np.int64),
        "num_top_logprobs": per_sample(st.integers(-1, 5), np.int32),
    }
    if draw_from(st.booleans()):
        places, counts = coordinates(draw_from, n, vocab_size, st.integers(0, 3))
        repetition = per_sample(st.sampled_from([1.0, 1.25, 2.0]), np.float32)
        frequency = per_sample(st.sampled_from([0.0, 0.5]), np.float32)
        presence = per_sample(st.sampled_from([0.0, 0.25]), np.float32)
        arrays["penalties"] = Penalties(repetition, frequency, presence, *places, i32(*counts))
    if draw_from(st.booleans()):
        places, added = coordinates(draw_from, n, vocab_size, st.sampled_from([-np.inf, -2.0, 0.5, 8.0]))
        arrays["bias"] = LogitBias(*places, f32(*added))
    if draw_from(st.booleans()):
        words = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 2**32 - 1]))
        arrays["bitmask"] = draw_from(hnp.arrays(np.uint32, (n, -(-vocab_size // 32)), elements=words))
    num_scores = draw_from(st.integers(0, 3))
    score_rows = draw_from(hnp.arrays(np.int32, num_scores, elements=st.integers(0, num_rows - 1)))
    scored = draw_from(hnp.arrays(np.int32, num_scores, elements=st.integers(0, vocab_size - 1)))
    return logits, arrays, score_rows, scored


def may_draw(logits, sampling, sample, token):
    """Whether rounding could make a random draw this token: the uniform is that close to its share."""
    row = torch.from_numpy(logits[sampling.rows[sample]].copy())[None]
    for name, change in (("penalties", filters.apply_penalties), ("bias", filters.apply_bias)):
        part = getattr(sampling, name)
        if part is None:
            continue
        own = np.flatnonzero(part.entry_sample == sample)
        arrays = structs.asdict(part)
        entries = {key: values[own] for key, values in arrays.items() if key.startswith("entry_")}
        entries["entry_sample"] = entries["entry_sample"] * 0
        shared = {key: values[[sample]] for key, values in arrays.items() if not key.startswith("entry_")}
        change(row, type(part)(**entries, **shared))
    if sampling.bitmask is not None:
        filters.apply_bitmask(row, sampling.bitmask[[sample]])
    options = {
        key: getattr(sampling, key)[sample].item() for key in ("temperature", "top_k", "top_p", "min_p")
    }
    expected, close = kept_probabilities(row[0].numpy(), **options)
    edges = np.concatenate(([0.0], expected.cumsum()))
    u = uniform(sampling.seeds[[sample]], sampling.positions[[sample]])[0]
    return close or edges[token] - EPSILON <= u <= edges[token + 1] + EPSILON


@settings(max_examples=150, deadline=None)
@given(step=steps(), isa=st.sampled_from(NATIVE.supported_isas()), threads=st.sampled_from(sorted(TEAMS)))
def test_tokens_logprobs_and_scores_are_those_of_the_torch_sampler(step, isa, threads):
    logits, arrays, score_rows, scored = step
    native = run((TEAMS[threads], isa), logits, score_rows=score_rows, score_token_ids=scored, **arrays)
    sampling = sampling_of(**arrays)
    oracle = torch_sample(
        lambda index: torch.from_numpy(logits)[index].clone(),
        logits.shape[1],
        sampling,
        Scores(score_rows, scored),
        torch.device("cpu"),
    )
    for sample, (token, expected) in enumerate(zip(native.token_ids, oracle.token_ids, strict=True)):
        if token != expected:
            assert sampling.temperature[sample] > 0 and min(token, expected) >= 0
            assert may_draw(logits, sampling, sample, token)
            continue
        assert native.logprobs[sample] == pytest.approx(
            oracle.logprobs[sample], rel=1e-6, abs=1e-5, nan_ok=True
        )
        row = logits[sampling.rows[sample]]
        if not np.isfinite(row).any() or not np.isfinite(row.max()):
            continue  # a bitmask may hide it from the draw; the logprobs are not numbers
        assert native.top_logprobs[sample] == pytest.approx(oracle.top_logprobs[sample], rel=1e-6, abs=1e-5)
        num_top = min(max(int(sampling.num_top_logprobs[sample]), 0), len(row)) if token >= 0 else 0
        best = sorted(range(len(row)), key=lambda token_id: (-row[token_id], token_id))[:num_top]
        assert native.top_token_ids[sample].tolist() == best + [0] * (native.top_token_ids.shape[1] - num_top)
    assert native.score_logprobs == pytest.approx(oracle.score_logprobs, rel=1e-6, abs=1e-5, nan_ok=True)


# ----------------------------------------------------------------------------------------- by example


def test_greedy_takes_the_first_of_equal_maxima(machine):
    logits = np.zeros((5, 40000))
    logits[1, [17, 39999]] = 2.0
    logits[2, 39999] = 1.0
    logits[3, [515, 1023]] = 1e30
    logits[4] = -np.inf
    logits[4, 20001] = -3e38
    assert run(machine, logits).token_ids.tolist() == [0, 17, 39999, 515, 20001]


@pytest.mark.parametrize("place", [0, 511, 512, 1030])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
def test_a_row_that_is_not_finite_gives_minus_one_and_spoils_no_other(machine, value, place):
    logits = np.random.default_rng(0).normal(size=(4, 1031)).astype(np.float32)
    logits[1, place] = value
    output = run(
        machine,
        logits,
        temperature=f32(0, 0, 1, 0),
        num_top_logprobs=i32(1, 2, 0, 1),
        score_rows=[1],
        score_token_ids=[3],
    )
    assert output.token_ids[1] == -1 and (output.token_ids[[0, 2, 3]] >= 0).all()
    assert np.isnan(output.logprobs).tolist() == [False, True, False, False]
    assert output.top_logprobs[1].tolist() == [-np.inf, -np.inf]
    assert np.isnan(output.score_logprobs[0])


def test_of_equal_tokens_the_first_are_kept(machine):
    uniforms = np.linspace(0, 1, 50, endpoint=False)
    row = np.zeros(1000, dtype=np.float32)
    assert set(draw(machine, row, uniforms, 1.0, top_k=7)) == set(range(7))
    assert set(draw(machine, row[:8], uniforms, 1.0, top_p=0.5)) == set(range(4))
    row[100:108] = 2.0
    assert set(draw(machine, row, uniforms, 1.0, top_k=4, top_p=0.75)) == {100, 101, 102}
    assert set(draw(machine, row, uniforms, 1.0, min_p=1.0)) == set(range(100, 108))


def test_tiny_and_huge_temperatures_and_the_largest_uniform(machine):
    row = f32(1e4, 9e3, -1e4)
    assert draw(machine, row, [0.9], 1e-38).tolist() == [0]
    assert draw(machine, row, [0.5], 1e30).tolist() == [1]
    banned_last = f32(0.1, 0.2, 0.3, -np.inf)
    for given_filters in ({}, {"top_p": 0.99}, {"top_k": 4}, {"top_k": 3}):
        assert draw(machine, banned_last, [1 - 2**-53, 0.0], 1.0, **given_filters).tolist() == [2, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bitmask_allows_what_has_its_bit(machine, temperature):
    n, vocab_size = 100, 4099
    logits = np.random.default_rng(1).normal(size=(1, vocab_size)).astype(np.float32)
    logits[0, 77] = np.nan  # not allowed, so it does not matter
    bitmask = np.zeros((n, -(-vocab_size // 32)), dtype=np.uint32)
    allowed = [5, 31, 32, 700, 4098]
    for token in allowed:
        bitmask[:-1, token // 32] |= np.uint32(1 << token % 32)
    drawn = run(machine, logits, rows=[0] * n, bitmask=bitmask, temperature=f32(*[temperature] * n)).token_ids
    best = max(allowed, key=lambda token: logits[0, token])
    assert set(drawn[:-1]) == (set(allowed) if temperature else {best})
    assert drawn[-1] == -1  # all its bits are zero
    biased = LogitBias(i32(0, 1), i32(700, 6), f32(50, 50))
    again = run(
        machine, logits, rows=[0] * n, bitmask=bitmask, bias=biased, temperature=f32(*[temperature] * n)
    )
    assert again.token_ids[0] == 700 and again.token_ids[1] == drawn[1]


def test_top_logprobs_beyond_what_there_is(machine):
    output = run(machine, [[1.0, 3.0, -np.inf, 3.0, -np.inf]], num_top_logprobs=i32(7))
    assert output.top_token_ids[0, :5].tolist() == [1, 3, 0, 2, 4]
    assert np.isneginf(output.top_logprobs[0, 3:]).all()
    large = np.random.default_rng(2).normal(size=(1, 3000)).astype(np.float32)
    output = run(machine, large, num_top_logprobs=i32(2500))
    assert output.top_token_ids[0].tolist() == np.argsort(-large[0], kind="stable")[:2500].tolist()
    assert output.logprobs[0] == output.top_logprobs[0, 0]


# -------------------------------------------------------------------------------- company, blocks, mistakes


def company():
    """64 samples of 9 rows with everything a sampling can have."""
    rng = np.random.default_rng(4)
    n, vocab_size = 64, 5003
    logits = rng.normal(size=(9, vocab_size)).astype(np.float32) * 3
    entry_sample = np.repeat(np.arange(n, dtype=np.int32), 5)
    entry_token = rng.integers(0, vocab_size, 5 * n).astype(np.int32)
    return logits, sampling_of(
        rng.integers(0, 9, n),
        temperature=f32(*[0, 1, 0.7, 3] * 16),
        top_k=rng.choice(i32(0, 0, 20, 900), n),
        top_p=rng.choice(f32(1, 0.95, 0.5), n),
        min_p=rng.choice(f32(0, 0.01), n),
        seeds=rng.integers(0, 2**63, n).astype(np.uint64),
        num_top_logprobs=rng.integers(-1, 6, n).astype(np.int32),
        penalties=Penalties(
            f32(*[1.2] * n), f32(*[0.1] * n), f32(*[0] * n), entry_sample, entry_token, entry_token % 3
        ),
        bias=LogitBias(entry_sample[::2], entry_token[::2], f32(*[0.5] * len(entry_token[::2]))),
        bitmask=rng.integers(0, 2**32, (n, -(-vocab_size // 32)), dtype=np.uint32),
    )


def lone(sampling, sample):
    """One sample of many, as if it were alone."""
    arrays = {}
    for name, value in structs.asdict(sampling).items():
        if isinstance(value, Penalties | LogitBias):
            own = value.entry_sample == sample
            arrays_of_part = structs.asdict(value)
            parts = {k: v[own] if k.startswith("entry_") else v[[sample]] for k, v in arrays_of_part.items()}
            arrays[name] = type(value)(**parts | {"entry_sample": parts["entry_sample"] * 0})
        else:
            arrays[name] = value[[sample]]
    return arrays


def test_company_changes_no_bit(machine):
    logits, sampling = company()
    together = run(machine, logits, **structs.asdict(sampling))
    for sample in range(64):
        alone = run(machine, logits, **lone(sampling, sample))
        width = alone.top_token_ids.shape[1]
        assert alone.token_ids[0] == together.token_ids[sample]
        assert np.array_equal(alone.logprobs[0], together.logprobs[sample], equal_nan=True)
        assert np.array_equal(alone.top_token_ids[0], together.top_token_ids[sample, :width])
        assert np.array_equal(alone.top_logprobs[0], together.top_logprobs[sample, :width])


def test_blocks_change_nothing(machine):
    """Logits come in blocks of bounded size, each row once, and the result is the same."""
    logits, sampling = company()
    arrays = structs.asdict(sampling)
    scores = {"score_rows": [8, 0, 0, 4], "score_token_ids": [1, 2, 5002, 0]}
    whole = run(machine, logits, **scores, **arrays)
    for block_bytes in (2 * logits.shape[1] * 4, 1):  # two rows, and less than one
        blocks = run(machine, logits, block_bytes=block_bytes, **scores, **arrays)
        for name in FIELDS:
            expected, result = getattr(whole, name), getattr(blocks, name)
            assert np.array_equal(expected, result, equal_nan=name == "logprobs"), name


def test_nothing_to_sample(machine):
    output = run(machine, np.zeros((2, 8)), rows=[], score_rows=[1], score_token_ids=[3])
    assert output.token_ids.shape == (0,)
    assert output.score_logprobs == pytest.approx([-np.log(8)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bitmask": np.zeros((2, 2), dtype=np.uint32)}, "one bit per token"),
        ({"bitmask": np.zeros((1, 1), dtype=np.uint32)}, "one row per sample"),
        ({"top_p": f32(1), "temperature": f32(0, 1)}, "one value per sample"),
        ({"bias": LogitBias(i32(0), i32(8), f32(1))}, r"biased token 8 is not in 0\.\.7"),
        ({"bias": LogitBias(i32(2), i32(0), f32(1))}, "sample of an entry 2"),
        ({"bias": LogitBias(i32(0), i32(0), f32())}, "one value per entry"),
        ({"penalties": Penalties(f32(1), f32(1), f32(1), i32(), i32(), i32())}, "one value per sample"),
        ({"score_rows": [0], "score_token_ids": [-1]}, "scored token -1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        run((TEAMS[1], "baseline"), np.zeros((2, 8)), **changed)


def test_outputs_are_never_written_to_a_copy():
    sampler = NATIVE.Sampler(TEAMS[1], "baseline", BLOCK_BYTES)
    output = ModelOutput(i32(0), np.zeros(1), np.empty((1, 0), np.int32), np.empty((1, 0), np.float32), f32())
    row = np.zeros((1, 8), np.float32), i32(0)
    with pytest.raises(TypeError, match="logprobs has another type"):
        sampler.sample_logits(*row, sampling_of([0]), np.zeros(1), i32(), i32(), output)
    few_columns = structs.replace(output, logprobs=f32(0))
    wanted = sampling_of([0], num_top_logprobs=i32(1))
    with pytest.raises(ValueError, match="too few columns"):
        sampler.sample_logits(*row, wanted, np.zeros(1), i32(), i32(), few_columns)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": np.zeros((3, 8), np.float32)}, "one row for each"),
        ({"logits": np.zeros((2, 0), np.float32)}, "a column per token"),
        ({"rows": i32(5, 7)}, "sampled is not among the rows"),
        ({"rows": i32(7, 3)}, "ascending"),
        ({"rows": i32(3, 3)}, "ascending"),
        ({"score_rows": i32(6)}, "scored is not among the rows"),
        ({"score_token_ids": i32()}, "differ in length"),
        ({"uniforms": np.zeros(2)}, "one value per sample"),
    ],
)
def test_what_does_not_belong_together_is_refused(changed, message):
    given_arrays = {
        "logits": np.zeros((2, 8), np.float32),
        "rows": i32(3, 7),
        "sampling": sampling_of([3]),
        "uniforms": np.zeros(1),
        "score_rows": i32(7),
        "score_token_ids": i32(0),
        "output": empty_output(sampling_of([3]), 1),
    }
    sampler = NATIVE.Sampler(TEAMS[1], "baseline", BLOCK_BYTES)
    sampler.sample_logits(**given_arrays)
    assert given_arrays["output"].token_ids.tolist() == [0]
    with pytest.raises(ValueError, match=message):
        sampler.sample_logits(**given_arrays | changed)


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="lacks that instruction set"):
        NATIVE.Sampler(TEAMS[1], "mmx", BLOCK_BYTES)


def test_it_needs_no_torch():
    code = "import sys, ramet.runner.native_sampler; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
