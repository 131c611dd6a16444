"""Bias of logits: from the parameter to what is drawn, beside bans, constraints and other requests."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from driving import Driver
from parrot import parrot
from pieces import random_backend

from ramet.constraints import Choice
from ramet.errors import InvalidRequest
from ramet.facade import Facade
from ramet.sampling_params import MAX_BIASED_TOKENS, SamplingParams


@pytest.fixture
def facade():
    backend = parrot("hello")
    yield Facade(backend)
    backend.shutdown()


def run(**requests):
    """The tokens of requests that run together; each counts on from 5."""
    driver = Driver(eos=[3])
    for name, sampling in requests.items():
        driver.add(name, [5], **{"max_tokens": 3, **sampling})
    driver.run()
    return {name: driver.tokens[name] for name in requests}


def test_it_is_kept_as_sorted_pairs_and_may_be_given_as_them():
    params = SamplingParams(logit_bias={7: 1, 3: -2.5})
    assert params.logit_bias == ((3, -2.5), (7, 1.0))
    assert params.replace(n=2).logit_bias == params.logit_bias
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
    assert hash(params) == hash(SamplingParams(logit_bias=[(7, 1.0), (3, -2.5)]))
    assert SamplingParams(logit_bias=None).logit_bias == ()


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({1: 101}, "logit_bias of token 1 must be between -100 and 100"),
        ({1: math.nan}, "logit_bias of token 1 must be between"),
        ({1: "much"}, "logit_bias of token 1 must be a number, got str"),
        ({"1": 5}, "a token id must be an integer, got str"),
        ({-1: 5}, "a token id must be at least 0"),
        ({True: 5}, "a token id must be an integer, got bool"),
        ([1, 2], "must map token ids to numbers"),
        (5, "must map token ids to numbers"),
        (dict.fromkeys(range(MAX_BIASED_TOKENS + 1), 1), "at most 1024 tokens, got 1025"),
    ],
)
def test_what_is_refused(bias, message):
    with pytest.raises(InvalidRequest, match=message):
        SamplingParams(logit_bias=bias)


def test_a_ban_and_a_force():
    assert run(plain={}, banned={"logit_bias": {7: -100}}, forced={"logit_bias": {50: 100}}) == {
        "plain": [6, 7, 8],
        "banned": [6, 8, 9],
        "forced": [50, 50, 50],
    }


def test_each_request_has_its_own():
    company = {str(token): {"logit_bias": {token: 100, 6: -50}} for token in range(20, 30)}
    together = run(**company, none={})
    assert together["none"] == [6, 7, 8]
    assert all(together[name] == run(**{name: sampling})[name] for name, sampling in company.items())


def test_it_does_not_lift_the_ban_of_what_would_end_the_text():
    pushed = {3: 100, 60: 50}
    assert run(early={"logit_bias": pushed}) == {"early": [3]}
    assert run(late={"logit_bias": pushed, "min_tokens": 2}) == {"late": [60, 60, 3]}


def test_bans_of_tokens_that_only_the_tokenizer_knows_are_left_out():
    seen = []
    driver = Driver(before_draw=seen.append)
    driver.add("a", [5], min_tokens=2, stop_token_ids=(100, 7), logit_bias={50: 0.25})
    driver.run()
    bias = seen[0].bias
    assert bias.entry_token.tolist() == [50, 7]
    assert bias.entry_value.tolist() == [0.25, -np.inf]
    assert driver.tokens["a"] == [6, 8, 9, 10]


def test_a_token_that_the_model_does_not_have_is_refused_alone():
    driver = Driver()
    driver.add("wrong", [5], logit_bias={100: 1})
    driver.add("right", [5], logit_bias={99: 100})
    driver.run()
    assert "logit_bias: 100 is outside the vocabulary of 100 tokens" in str(driver.final["wrong"].error)
    assert driver.tokens["right"] == [99] * 4


def test_logprobs_stay_those_of_the_model(facade):
    forced = facade.generate("say>", max_tokens=2, logprobs=2, logit_bias={ord("X"): 100})
    plain = facade.generate("say>", max_tokens=2, logprobs=2)
    assert (plain.text, forced.text) == ("he", "XX")
    assert forced.logprobs[0].top == plain.logprobs[0].top
    assert forced.logprobs[0].logprob < plain.logprobs[0].logprob


def test_a_constraint_has_the_last_word():
    backend = random_backend()
    try:
        facade, text = Facade(backend), Choice(("left", "right"))
        biases = [
            {backend._tokenizer.encode_continuation(word)[0]: 100} for word in ("left", "right", "Paris")
        ]
        texts = [facade.generate("turn", constraint=text, logit_bias=bias).text for bias in biases]
        assert texts[:2] == ["left", "right"]
        assert texts[2] in ("left", "right")
        nothing_else = {token: -100 for word in ("l", "r") for token in word.encode()}
        assert facade.generate("turn", constraint=text, logit_bias=nothing_else).text in ("left", "right")
    finally:
        backend.shutdown()
