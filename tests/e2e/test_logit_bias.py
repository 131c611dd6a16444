"""Bias of logits on a real model: the ends of the range ban and force, whatever the temperature."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = pytest.mark.model

PROMPT = "The capital of France is"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_ends_of_the_range_ban_and_force(engine, temperature):
    sampling = {"max_tokens": 8, "temperature": temperature, "seed": 1, "ignore_eos": True, "logprobs": 1}
    plain = engine.generate(PROMPT, **sampling)
    banned = engine.generate(PROMPT, logit_bias=dict.fromkeys(plain.token_ids, -100), **sampling)
    assert not set(plain.token_ids) & set(banned.token_ids)
    assert banned.logprobs[0].top == plain.logprobs[0].top  # of the model itself, as ever
    unlikely = 1000
    assert unlikely not in plain.token_ids
    forced = engine.generate(PROMPT, logit_bias={unlikely: 100}, **sampling)
    assert set(forced.token_ids) == {unlikely}


def test_company_with_a_bias_changes_nothing(engine):
    sampling = {"max_tokens": 6, "temperature": 0.8, "seed": 3}
    alone = engine.generate(PROMPT, **sampling)
    strange = [engine.agenerate(PROMPT, logit_bias={token: 7.5}, **sampling) for token in range(500, 508)]

    async def together():
        return await asyncio.gather(engine.agenerate(PROMPT, **sampling), *strange)

    in_company, *others = asyncio.run(together())
    assert in_company.token_ids == alone.token_ids
    assert len(others) == 8
