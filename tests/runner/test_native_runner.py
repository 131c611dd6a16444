"""The native runner: a row's bits in any step, batch, chunk and team; draws; two runners at once; the end."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from attention.plans import Sequence, Step, execute, given, sampling_of
from ramet import kernels
from ramet.config import ModelOptions
from ramet.errors import EngineDead
from ramet.runner.build import runner_from_weights
from ramet.runner.native import NativeModelRunner
from runner.row_independence import SHAPES, check_draws, check_rows
from runner.tiny_models import QuantizedWeights, random_weights, tiny_config, tiny_runner

NATIVE = kernels.load_native()
if NATIVE is None:
    pytest.skip(kernels.why_unavailable(), allow_module_level=True)

QUANTIZED = tiny_config(hidden_size=96, intermediate_size=160, vocab_size=203)


def native_runner(
    config=None, weights=None, max_kv_tokens=2048, num_threads=2, **options
) -> NativeModelRunner:
    config = config or tiny_config()
    options = ModelOptions(device="cpu", kernels="native", num_threads=num_threads, **options)
    return runner_from_weights(
        config, weights or random_weights(config), options, max_kv_tokens=max_kv_tokens
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_a_row_are_the_same_bits_everywhere(shape, dtype):
    config = SHAPES[shape]
    weights = random_weights(config)
    check_rows(lambda **given: native_runner(config, weights, dtype=dtype, **given), config.vocab_size)


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_and_with_quantized_weights(kind, kv_dtype):
    weights = QuantizedWeights(QUANTIZED, kind)
    check_rows(lambda **given: native_runner(QUANTIZED, weights, kv_dtype=kv_dtype, **given), 203)


def test_draws_and_logprobs_are_the_same_alone_and_in_a_batch():
    check_draws(native_runner())


def test_in_float32_it_draws_and_scores_what_the_torch_runner_does():
    sequence = Sequence(np.random.default_rng(2).integers(0, 199, 80).tolist(), list(range(80)))
    rows = list(range(0, 80, 2))
    n = len(rows)
    sampling = sampling_of(
        rows,
        temperature=np.where(np.arange(n) % 2, 0.8, 0.0).astype(np.float32),
        top_p=np.full(n, 0.95, dtype=np.float32),
        num_top_logprobs=np.full(n, 3, dtype=np.int32),
    )
    step = given([Step(sequence, 0, 80)], sampling, score_rows=[5, 5, 79], score_token_ids=[1, 2, 3])
    result, expected = (execute(runner, step) for runner in (native_runner(dtype="float32"), tiny_runner()))
    assert np.array_equal(result.token_ids, expected.token_ids)
    assert np.array_equal(result.top_token_ids, expected.top_token_ids)
    for name in ("logprobs", "top_logprobs", "score_logprobs"):
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), atol=2e-5)


def test_a_step_may_ask_for_nothing():
    """A chunk of a prompt that is not the last."""
    output = execute(native_runner(), given([Step(Sequence([1, 2], [0, 1]), 0, 2)], sampling_of([])))
    assert output.token_ids.shape == output.score_logprobs.shape == (0,)


def test_a_profile_is_of_the_steps_since_it_was_asked_for():
    runner, step = native_runner(), given([Step(Sequence([1, 2], [0, 1]), 0, 2)])
    for _ in range(100):
        execute(runner, step)
    runner.set_profile(True)
    assert set(runner.take_profile().values()) == {0.0}
    execute(runner, step)
    profile = runner.take_profile()
    assert {"attention", "logits", "sampling"} <= set(profile) and min(profile.values()) > 0
    assert set(runner.take_profile().values()) == {0.0}


def test_two_runners_on_two_threads():
    config = tiny_config()
    step = given([Step(Sequence(list(range(100)), list(range(100))), 0, 100)])
    runners = [native_runner(config, random_weights(config, seed)) for seed in (1, 2)]
    expected = [execute(runner, step).token_ids.tolist() for runner in runners]
    results = [[], []]

    def run(index):
        for _ in range(30):
            results[index].append(execute(runners[index], step).token_ids.tolist())

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[tokens] * 30 for tokens in expected]


def test_closing_frees_the_weights_and_may_be_done_twice():
    runner = native_runner()
    alive = weakref.ref(runner)
    step = given([Step(Sequence([1], [0]), 0, 1)])
    execute(runner, step)
    runner.close()
    runner.close()
    with pytest.raises(EngineDead, match="closed"):
        execute(runner, step)
    assert (runner.num_slots, runner.vocab_size) == (2048, 199)
    del runner
    gc.collect()
    assert alive() is None


def test_closing_gives_the_memory_back():
    """A model of 70 MB, six times over."""
    code = """
import resource
from ramet.config import ModelOptions
from ramet.runner.build import runner_from_weights
from runner.row_independence import SHAPES, check_draws, check_rows
from runner.tiny_models import random_weights, tiny_config

config = tiny_config(hidden_size=256, intermediate_size=2048, num_layers=8)
weights = random_weights(config)
options = ModelOptions(device="cpu", kernels="native", num_threads=2, dtype="float32")
peaks = []
for _ in range(6):
    runner = runner_from_weights(config, weights, options, max_kv_tokens=2048)
    runner.close()
    del runner
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
assert peaks[-1] - peaks[0] < 40, peaks
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, cwd=__file__.rpartition("/runner/")[0]
    )
