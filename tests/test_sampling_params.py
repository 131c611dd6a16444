from __future__ import annotations

import pytest

from ramet import InvalidRequest, SamplingParams


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_k": 2**31}, "top_k must be between -1 and 2147483647"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty must be between 0.01 and 100"),
        ({"stop": ["a"] * 65}, "stop may hold at most 64, got 65"),
        ({"stop_regex": ["a"] * 65}, "stop_regex may hold at most 64, got 65"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids may hold at most 1024, got 1025"),
        ({"stop": ["a", "b" * 8192]}, "stop may have 8192 characters, got 8193"),
        ({"stop_regex": "a" * 8193}, "stop_regex may have 8192 characters, got 8193"),
    ],
)
def test_what_would_harm_an_engine_is_refused(given, message):
    with pytest.raises(InvalidRequest, match=message):
        SamplingParams(**given)


def test_what_is_just_allowed():
    SamplingParams(top_k=2**31 - 1, repetition_penalty=0.01, stop=["b" * 128] * 64)
