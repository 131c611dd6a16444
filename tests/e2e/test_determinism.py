"""The same request gives the same bits: alone, in company, from cache or not, in chunks, on any team."""

from __future__ import annotations

import pytest

from ramet.engine.engine import Engine
from ramet.kernels import load_native, why_unavailable

pytestmark = [pytest.mark.model, pytest.mark.slow]

native = pytest.mark.skipif(load_native() is None, reason=str(why_unavailable()))
FORMATS = [
    pytest.param({"kernels": "native"}, marks=native, id="as-stored"),
    pytest.param({"kernels": "native", "dtype": "bfloat16"}, marks=native, id="bfloat16"),
    pytest.param({"kernels": "native", "dtype": "float32"}, marks=native, id="float32"),
    pytest.param({"kernels": "native", "kv_dtype": "float32"}, marks=native, id="as-stored-kv-float32"),
    pytest.param({"kernels": "torch"}, id="torch"),
]


@pytest.mark.parametrize("options", FORMATS)
def test_logprobs_are_bitwise_the_same_in_any_company(options, questions):
    prompt = questions[0] + "\n" + questions[1] + "\n" + questions[2] + "\nAnswer:"
    sampling = {
        "temperature": 0.8,
        "top_p": 0.9,
        "seed": 7,
        "max_tokens": 24,
        "logprobs": 3,
        "ignore_eos": True,
    }
    others = [question[: 20 + 11 * index] for index, question in enumerate(questions[3:34])]

    def outcome(completion):
        return completion.token_ids, completion.logprobs

    with Engine(**options) as engine:
        alone = outcome(engine.generate(prompt, **sampling))
        assert outcome(engine.generate(prompt, **sampling)) == alone, "after a cache hit"
        engine.flush_cache()
        batch = engine.generate([*others[:16], prompt, *others[16:]], **sampling)
        assert len(batch) == 32
        assert outcome(batch[16]) == alone, "in a batch of 32 different requests"
    with Engine(**options, enable_prefix_cache=False) as uncached:
        assert outcome(uncached.generate(prompt, **sampling)) == alone, "with the cache off"
    with Engine(**options, max_batch_tokens=64) as chunked:
        assert outcome(chunked.generate(prompt, **sampling)) == alone, "with prefill in chunks of 64"
    if options["kernels"] == "native":
        for num_threads in (1, 2):
            with Engine(**options, num_threads=num_threads) as engine:
                assert outcome(engine.generate(prompt, **sampling)) == alone, f"on {num_threads} threads"


@native
def test_a_long_context_is_the_same_bits_on_one_thread_and_two(questions):
    """Attention to a long context is shared among threads, which end in any order."""
    prompt = "\n".join(questions)
    outcomes = []
    for num_threads in (1, 2):
        with Engine(kernels="native", num_threads=num_threads) as engine:
            completion = engine.generate(prompt, temperature=0, max_tokens=8, logprobs=2, ignore_eos=True)
            assert completion.usage.prompt_tokens > 2000
            outcomes.append((completion.token_ids, completion.logprobs))
    assert outcomes[0] == outcomes[1]
