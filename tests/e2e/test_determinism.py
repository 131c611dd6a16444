"""The same request gives the same bits: alone, in company, from cache, without cache, in chunks."""

from __future__ import annotations

import pytest

from ramet.engine.engine import Engine

pytestmark = [pytest.mark.model, pytest.mark.slow]


def test_logprobs_are_bitwise_the_same_in_any_company(engine, questions):
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

    engine.flush_cache()
    alone = outcome(engine.generate(prompt, **sampling))
    assert outcome(engine.generate(prompt, **sampling)) == alone, "after a cache hit"
    engine.flush_cache()
    batch = engine.generate([*others[:16], prompt, *others[16:]], **sampling)
    assert len(batch) == 32
    assert outcome(batch[16]) == alone, "in a batch of 32 different requests"
    with Engine(dtype="float32", enable_prefix_cache=False) as uncached:
        assert outcome(uncached.generate(prompt, **sampling)) == alone, "with the cache off"
    with Engine(dtype="float32", max_batch_tokens=64) as chunked:
        assert outcome(chunked.generate(prompt, **sampling)) == alone, "with prefill in chunks of 64"
