"""Stop regexes of people who mean harm: the memory and the time they may take."""

from __future__ import annotations

from collections import deque

import pytest
from parrot import EOS, byte_tokenizer

from ramet.errors import InvalidRequest
from ramet.sampling_params import SamplingParams
from ramet.scheduler.stop import StopChecker, compile_stop_patterns

VOCAB = byte_tokenizer().vocab


@pytest.mark.parametrize("bomb", ["(?:(?:a{900}){900}){900}", "(?:ab{2,3}){100000000}", "a{10001,}"])
def test_repeats_that_would_fill_the_memory_are_refused(bomb):
    with pytest.raises(InvalidRequest, match="more than 10000 repeats"):
        compile_stop_patterns(SamplingParams(stop_regex=bomb))


@pytest.mark.parametrize("pattern", [r"\d{4}-\d{2}-\d{2}", "a{10000}", "[a-z]{0,5000}(x{3}){,90}!", "{}a"])
def test_ordinary_repeats_are_not(pattern):
    compile_stop_patterns(SamplingParams(stop_regex=pattern))


def test_many_slow_regexes_end_their_request_before_one_of_them_does():
    slow = [rf"(?:.|\n)*(?:.|\n)*(?:.|\n)*Q{index}" for index in range(64)]
    checker = StopChecker(SamplingParams(max_tokens=10_000, stop_regex=slow), [EOS], VOCAB)
    letters = b"never the letter it waits for " * 300
    with pytest.raises(InvalidRequest, match="or all so far, took more than"):
        deque(map(checker.append, letters), maxlen=0)
