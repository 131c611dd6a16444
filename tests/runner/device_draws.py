"""Samples of the device, beside what the reference makes of the same; and parameters of all kinds."""

import numpy as np
import torch

from attention.plans import sampling_of
from ramet.model_io import LogitBias, Penalties
from ramet.runner import filters, sampler
from ramet.runner.device_sampler import draw
from ramet.runner.sampler import Scores, sample
from ramet.runner.uniform import uniform

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FIELDS = ("token_ids", "logprobs", "top_token_ids", "top_logprobs", "score_logprobs")


def i32(*values):
    return np.array(values, dtype=np.int32)


def f32(*values):
    return np.array(values, dtype=np.float32)


def scores_of(rows=(), token_ids=()):
    return Scores(i32(*rows), i32(*token_ids))


def random_bitmask(rng, n, vocab_size):
    return rng.integers(0, 2**32, (n, -(-vocab_size // 32)), dtype=np.uint32)


def random_bias(rng, n, vocab_size):
    sample_of = rng.integers(0, n, 12 * n).astype(np.int32)
    values = rng.choice(f32(-np.inf, -3, 2, 5), 12 * n)
    return LogitBias(sample_of, rng.integers(0, vocab_size, 12 * n).astype(np.int32), values)


def random_penalties(rng, n, vocab_size):
    seen = [rng.choice(vocab_size, 30, replace=False) for _ in range(n)]
    return Penalties(
        repetition=rng.choice(f32(1, 1.3, 0.8), n),
        frequency=rng.choice(f32(0, 0.5), n),
        presence=rng.choice(f32(0, 0.7), n),
        entry_sample=np.repeat(np.arange(n, dtype=np.int32), 30),
        entry_token=np.concatenate(seen).astype(np.int32),
        entry_output_count=rng.integers(0, 4, 30 * n).astype(np.int32),
    )


def many(rng, vocab_size):
    """Thirty samples of fifty rows, with everything."""
    return {
        "temperature": f32(*[0, 1, 0.5] * 10),
        "top_p": f32(*[0.9, 1] * 15),
        "top_k": i32(*[0, 0, 0, 20, 0] * 6),
        "seeds": np.arange(30, dtype=np.uint64),
        "num_top_logprobs": i32(*[2, -1, 0] * 10),
        "penalties": random_penalties(rng, 30, vocab_size),
        "bias": random_bias(rng, 30, vocab_size),
        "bitmask": random_bitmask(rng, 30, vocab_size),
    }


def both(logits, rows=None, scores=None, **given):
    """The sampling, and what reference and kernels make of it; by default each row is sampled once."""
    logits = torch.from_numpy(np.asarray(logits, dtype=np.float32))
    on_device = logits.to(DEVICE)
    vocab_size, scores = logits.shape[1], scores or scores_of()
    sampling = sampling_of(range(len(logits)) if rows is None else rows, **given)
    expected = sample(lambda index: logits[index], vocab_size, sampling, scores, CPU)
    drawn = draw(lambda index: on_device[index], vocab_size, sampling, scores, DEVICE)
    output = drawn.collect()
    assert drawn.token_ids.tolist() == output.token_ids.tolist()
    return sampling, expected, output


def assert_same(expected, output, except_tokens_of=()):
    same = np.setdiff1d(np.arange(len(expected.token_ids)), except_tokens_of)
    assert np.array_equal(expected.token_ids[same], output.token_ids[same])
    assert np.allclose(expected.logprobs[same], output.logprobs[same], atol=1e-5, equal_nan=True)
    assert np.array_equal(expected.top_token_ids, output.top_token_ids)
    assert np.allclose(expected.top_logprobs, output.top_logprobs, atol=1e-5)
    assert np.allclose(expected.score_logprobs, output.score_logprobs, atol=1e-5, equal_nan=True)
    for field in FIELDS:
        assert getattr(expected, field).dtype == getattr(output, field).dtype
        assert getattr(expected, field).shape == getattr(output, field).shape


def close_calls(logits, sampling, expected, output):
    """Samples that drew different tokens, after checking that the uniform lay between the two."""
    differing = np.flatnonzero(expected.token_ids != output.token_ids)
    for number in differing:
        one = sampler._take(sampling, np.array([number]))
        row = torch.from_numpy(logits[one.rows].astype(np.float32))
        for change, parameters in (
            (filters.apply_penalties, one.penalties),
            (filters.apply_bias, one.bias),
            (filters.apply_bitmask, one.bitmask),
        ):
            if parameters is not None:
                change(row, parameters)
        scaled = (row - row.amax()) / torch.from_numpy(one.temperature)
        top_p = torch.from_numpy(np.where(one.top_p < 1, one.top_p, np.inf).astype(np.float64))
        scaled = filters.drop_unlikely(scaled, torch.from_numpy(one.top_k.astype(np.int64)), top_p)
        scaled = filters.drop_below(scaled, torch.from_numpy(one.min_p))
        edges = torch.softmax(scaled.double(), -1).cumsum(-1)[0].numpy()
        tokens = sorted((expected.token_ids[number], output.token_ids[number]))
        between = edges[tokens[0] : tokens[1]]
        assert np.abs(between - uniform(one.seeds, one.positions)).max() < 1e-5
    assert len(differing) <= len(expected.token_ids) // 20
    return differing
