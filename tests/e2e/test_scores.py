"""Scores on a real model: what is scored has the logprobs that it was generated with."""

from __future__ import annotations

import pytest

from ramet.event_loop import run_sync
from ramet.types import Prompt

pytestmark = pytest.mark.model


def test_scored_tokens_have_the_logprobs_and_alternatives_of_generated_ones(engine):
    prompt = Prompt.of("Once upon a time")
    completion = engine.generate(prompt, max_tokens=8, temperature=0, logprobs=3, ignore_eos=True)
    (score,) = run_sync(engine.backend.score(prompt, [completion.token_ids], top_logprobs=3))
    assert score.token_ids == completion.token_ids
    assert score.logprobs == tuple(entry.logprob for entry in completion.logprobs)
    assert score.top == tuple(entry.top for entry in completion.logprobs)
    assert all(top[0].token_id == token for top, token in zip(score.top, score.token_ids, strict=True))
