"""A row's logits, bit for bit, whatever the step, the batch and the slots it is computed in."""

import numpy as np
import pytest
import torch

from attention.plans import Sequence, Step, model_input, sampling_of
from runner.tiny_models import tiny_config, tiny_runner

SHAPES = {
    "grouped": tiny_config(),
    "one-kv-head": tiny_config(num_heads=8, num_kv_heads=1, head_dim=64, hidden_size=72),
    "smollm": tiny_config(hidden_size=576, num_heads=9, num_kv_heads=3, head_dim=64, intermediate_size=1536),
    "multi-head-odd-sizes": tiny_config(
        num_heads=3, num_kv_heads=3, head_dim=128, hidden_size=90, intermediate_size=77
    ),
    "qwen2": tiny_config(num_heads=14, num_kv_heads=2, head_dim=64, hidden_size=70, qkv_bias=True),
    "qwen3": tiny_config(qk_norm=True, tie_word_embeddings=True),
}
LENGTH = 230


def fingerprint(runner, steps, row):
    """All logprobs of a row of the step: as many scores as there are tokens."""
    vocab = list(range(runner.vocab_size))
    output = runner.execute(
        model_input(steps, sampling_of([]), score_rows=[row] * len(vocab), score_token_ids=vocab)
    )
    return output.score_logprobs


def prefill(runner, sequence, *sizes):
    """Compute a sequence up to its last token in chunks of the given sizes, repeated."""
    begin, index = 0, 0
    while begin < len(sequence.slots) - 1:
        end = min(begin + sizes[index % len(sizes)], len(sequence.slots) - 1)
        runner.execute(model_input([Step(sequence, begin, end)], sampling_of([])))
        begin, index = end, index + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_a_row_are_the_same_bits_everywhere(shape):
    config = SHAPES[shape]
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, config.vocab_size, LENGTH).tolist()
    sequence = Sequence(token_ids, list(range(LENGTH)))
    runner = tiny_runner(config)
    expected = fingerprint(runner, [Step(sequence, 0, LENGTH)], LENGTH - 1)
    assert np.isfinite(expected).all()

    def check(result, what):
        assert np.array_equal(result, expected), what

    last = Step(sequence, LENGTH - 1, LENGTH)
    check(fingerprint(runner, [last], 0), "recomputed as a probe over its own slot")
    for sizes in [(64,), (100,), (1, 63, 7)]:
        other = tiny_runner(config)
        prefill(other, sequence, *sizes)
        check(fingerprint(other, [last], 0), f"after prefill in chunks of {sizes}")

    shuffled = Sequence(token_ids, rng.permutation(2048)[:LENGTH].tolist())
    check(fingerprint(tiny_runner(config), [Step(shuffled, 0, LENGTH)], LENGTH - 1), "in other slots")

    # In a batch: another prompt, a decode, and a branch that shares 150 positions
    branch = Sequence(token_ids[:150] + [3] * 40, [*range(150), *range(1000, 1040)])
    stranger = Sequence(rng.integers(0, config.vocab_size, 333).tolist(), list(range(1100, 1433)))
    prefill(runner, stranger, 512)
    company = [Step(branch, 150, 190), Step(sequence, 60, LENGTH), Step(stranger, 332, 333)]
    check(fingerprint(runner, company, 40 + LENGTH - 60 - 1), "in company, 60 positions cached")
    check(fingerprint(runner, [Step(stranger, 332, 333), last], 1), "decoded in company")


def test_draws_and_logprobs_are_the_same_alone_and_in_a_batch():
    runner = tiny_runner()
    rng = np.random.default_rng(1)
    sequences = [
        Sequence(rng.integers(0, 199, 40).tolist(), list(range(40 * index, 40 * index + 40)))
        for index in range(20)
    ]
    given = {
        "temperature": np.linspace(0, 2, 20, dtype=np.float32),
        "top_k": (np.arange(20) % 5 * 10).astype(np.int32),
        "top_p": np.where(np.arange(20) % 3, 0.9, 1.0).astype(np.float32),
        "min_p": np.where(np.arange(20) % 4, 0.0, 0.05).astype(np.float32),
        "seeds": np.arange(20, dtype=np.uint64),
        "positions": np.full(20, 40, dtype=np.int64),
        "num_top_logprobs": (np.arange(20) % 4 - 1).astype(np.int32),
    }
    steps = [Step(sequence, 0, 40) for sequence in sequences]
    batch = runner.execute(model_input(steps, sampling_of(range(39, 800, 40), **given)))
    for index, step in enumerate(steps):
        own = sampling_of([39], **{name: values[index : index + 1] for name, values in given.items()})
        alone = runner.execute(model_input([step], own))
        assert alone.token_ids[0] == batch.token_ids[index]
        assert np.array_equal(alone.logprobs[0], batch.logprobs[index], equal_nan=True)
        width = alone.top_token_ids.shape[1]
        assert np.array_equal(alone.top_token_ids[0], batch.top_token_ids[index, :width])
        assert np.array_equal(alone.top_logprobs[0], batch.top_logprobs[index, :width])


def test_bfloat16_follows_float32():
    config = tiny_config()
    sequence = Sequence(list(range(100)), list(range(100)))
    wide, narrow = (
        fingerprint(tiny_runner(config, dtype=dtype), [Step(sequence, 0, 100)], 99)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert np.abs(wide - narrow).max() < 0.3
