"""What every runner must hold: a row's bits do not depend on its step, batch, slots or chunks."""

from __future__ import annotations

import numpy as np

from attention.plans import Sequence, Step, execute, given, sampling_of
from ramet.model_io import LogitBias
from runner.tiny_models import tiny_config

SHAPES = {
    "grouped": tiny_config(),
    "one-kv-head": tiny_config(num_heads=8, num_kv_heads=1, head_dim=64, hidden_size=72),
    "smollm": tiny_config(hidden_size=576, num_heads=9, num_kv_heads=3, head_dim=64, intermediate_size=1536),
    "multi-head-odd-sizes": tiny_config(
        num_heads=3, num_kv_heads=3, head_dim=128, hidden_size=90, intermediate_size=77
    ),
    "padded-heads": tiny_config(
        num_heads=3, num_kv_heads=3, head_dim=98, hidden_size=90, intermediate_size=77
    ),
    "qwen2": tiny_config(num_heads=14, num_kv_heads=2, head_dim=64, hidden_size=70, qkv_bias=True),
    "qwen3": tiny_config(qk_norm=True, tie_word_embeddings=True),
}
LENGTH = 230


def fingerprint(runner, steps, row):
    """All logprobs of a row of the step: as many scores as there are tokens."""
    vocab = list(range(runner.vocab_size))
    output = execute(
        runner, given(steps, sampling_of([]), score_rows=[row] * len(vocab), score_token_ids=vocab)
    )
    return output.score_logprobs


def prefill(runner, sequence, *sizes):
    """Compute a sequence up to its last token in chunks of the given sizes, repeated."""
    begin, index = 0, 0
    while begin < len(sequence.slots) - 1:
        end = min(begin + sizes[index % len(sizes)], len(sequence.slots) - 1)
        execute(runner, given([Step(sequence, begin, end)], sampling_of([])))
        begin, index = end, index + 1


def check_rows(new_runner, vocab_size):
    """The last row of a sequence, bit for bit, whatever the step, the batch, the slots and the team."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, vocab_size, LENGTH).tolist()
    sequence = Sequence(token_ids, list(range(LENGTH)))
    runner = new_runner(num_threads=2)
    expected = fingerprint(runner, [Step(sequence, 0, LENGTH)], LENGTH - 1)
    assert np.isfinite(expected).all()

    def check(result, what):
        assert np.array_equal(result, expected), what

    last = Step(sequence, LENGTH - 1, LENGTH)
    check(fingerprint(runner, [last], 0), "recomputed as a probe over its own slot")
    for sizes, threads in [((64,), 1), ((100,), 3), ((1, 63, 2, 7), 2)]:
        other = new_runner(num_threads=threads)
        prefill(other, sequence, *sizes)
        check(fingerprint(other, [last], 0), f"after prefill in chunks of {sizes}, {threads} threads")

    shuffled = Sequence(token_ids, rng.permutation(2048)[:LENGTH].tolist())
    check(fingerprint(new_runner(num_threads=1), [Step(shuffled, 0, LENGTH)], LENGTH - 1), "in other slots")

    # In a batch: another prompt, a decode, and a branch that shares 150 positions
    branch = Sequence(token_ids[:150] + [3] * 40, [*range(150), *range(1000, 1040)])
    stranger = Sequence(rng.integers(0, vocab_size, 333).tolist(), list(range(1100, 1433)))
    prefill(runner, stranger, 512)
    company = [Step(branch, 150, 190), Step(sequence, 60, LENGTH), Step(stranger, 332, 333)]
    check(fingerprint(runner, company, 40 + LENGTH - 60 - 1), "in company, 60 positions cached")
    check(fingerprint(runner, [Step(stranger, 332, 333), last], 1), "decoded in company")


def check_draws(runner):
    """Draws and logprobs of samples, alone and in a batch of 20."""
    rng = np.random.default_rng(1)
    sequences = [
        Sequence(rng.integers(0, 199, 40).tolist(), list(range(40 * index, 40 * index + 40)))
        for index in range(20)
    ]
    settings = {
        "temperature": np.linspace(0, 2, 20, dtype=np.float32),
        "top_k": (np.arange(20) % 5 * 10).astype(np.int32),
        "top_p": np.where(np.arange(20) % 3, 0.9, 1.0).astype(np.float32),
        "min_p": np.where(np.arange(20) % 4, 0.0, 0.05).astype(np.float32),
        "seeds": np.arange(20, dtype=np.uint64),
        "positions": np.full(20, 40, dtype=np.int64),
        "num_top_logprobs": (np.arange(20) % 4 - 1).astype(np.int32),
    }
    biased = np.arange(0, 20, 2, dtype=np.int32)  # every other sample, each its own token
    tokens, added = biased * 7, np.linspace(-100, 100, 10, dtype=np.float32)
    steps = [Step(sequence, 0, 40) for sequence in sequences]
    bias = LogitBias(biased, tokens, added)
    batch = execute(runner, given(steps, sampling_of(range(39, 800, 40), bias=bias, **settings)))
    assert batch.token_ids[18] == 18 * 7, "100 forces"
    for index, step in enumerate(steps):
        one = biased == index
        bias = LogitBias(biased[one] * 0, tokens[one], added[one])
        values = {name: values[index : index + 1] for name, values in settings.items()}
        own = sampling_of([39], bias=bias, **values)
        alone = execute(runner, given([step], own))
        assert alone.token_ids[0] == batch.token_ids[index]
        assert np.array_equal(alone.logprobs[0], batch.logprobs[index], equal_nan=True)
        width = alone.top_token_ids.shape[1]
        assert np.array_equal(alone.top_token_ids[0], batch.top_token_ids[index, :width])
        assert np.array_equal(alone.top_logprobs[0], batch.top_logprobs[index, :width])
