"""Outputs of the core become chunks and completions: however they are parted, the outcome is the same."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot import EOS, byte_tokenizer, parrot

from ramet.engine.completions import Collector, chunks_of
from ramet.engine.messages import AddRequest
from ramet.errors import EngineError
from ramet.sampling_params import SamplingParams
from ramet.scheduler.request import RawLogprob, RequestOutput
from ramet.scheduler.stop import StopChecker
from ramet.types import Prompt

VOCAB = byte_tokenizer().vocab


def request(name="0.0", **sampling):
    params = SamplingParams(**{"max_tokens": 1000, **sampling})
    return AddRequest(request_id=name, token_ids=[1, 2, 3], params=params, seed=0)


def outputs_for(text, message):
    """What a core puts out that draws the bytes of a text and EOS: one output for each."""
    checker = StopChecker(message.params, [EOS], VOCAB)
    for token_id in [*text.encode(), EOS]:
        stop = checker.append(token_id)
        yield RequestOutput(
            request_id=message.request_id,
            token_ids=[token_id],
            logprobs=[RawLogprob(-float(token_id), [token_id, 7], [-1.0, -2.0])],
            releasable_text=checker.releasable_text if stop is None else stop.text_limit,
            finish_reason=None if stop is None else stop.finish_reason,
            stop_reason=None if stop is None else stop.stop_reason,
            hide_last_token=stop is not None and stop.by_token,
            num_cached_tokens=2,
        )
        if stop is not None:
            return


def parted(outputs, cuts):
    """Outputs in groups that end after each of the numbers of outputs in ``cuts``."""
    bounds = sorted({0, len(outputs), *(cut for cut in cuts if cut < len(outputs))})
    return [outputs[begin:end] for begin, end in pairwise(bounds)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    text=st.text(alphabet="abé🙂", max_size=20),
    stop=st.sampled_from([(), ("ab",), ("é🙂", "bb"), ("b",)]),
    cuts=st.lists(st.integers(1, 40)),
    logprobs=st.sampled_from([None, 2]),
)
def test_merged_outputs_say_the_same(text, stop, cuts, logprobs):
    message = request(stop=stop, logprobs=logprobs)
    outputs = list(outputs_for(text, message))
    whole = Collector(message, 0, VOCAB)
    whole.take(outputs)
    expected = whole.completion()
    first_stop = min((text.find(s) for s in stop if s in text), default=len(text))
    assert expected.text == text[:first_stop]

    collector = Collector(message, 0, VOCAB)
    chunks = [collector.chunk(group) for group in parted(outputs, cuts)]
    assert chunks[-1].completion == expected
    assert all(chunk.completion is None for chunk in chunks[:-1])
    assert "".join(chunk.text for chunk in chunks) == expected.text
    assert sum((chunk.token_ids for chunk in chunks), ()) == expected.token_ids
    if logprobs is None:
        assert expected.logprobs is None and all(chunk.logprobs is None for chunk in chunks)
    else:
        assert sum((chunk.logprobs for chunk in chunks), ()) == expected.logprobs
        assert [entry.token_id for entry in expected.logprobs] == list(expected.token_ids)


def test_outputs_of_several_completions_give_a_chunk_for_each():
    messages = [request(f"0.{index}") for index in range(2)]
    collectors = {m.request_id: Collector(m, index, VOCAB) for index, m in enumerate(messages)}
    one, two = (list(outputs_for("hello", message)) for message in messages)
    chunks = list(chunks_of([one[0], two[0], one[1], two[1], one[2]], collectors))
    assert [(chunk.index, chunk.text) for chunk in chunks] == [(0, "hel"), (1, "he")]


def test_what_came_before_an_error_is_given_out():
    message = request()
    collectors = {message.request_id: Collector(message, 0, VOCAB)}
    failed = RequestOutput(request_id=message.request_id, finish_reason="error", error=EngineError("boom"))
    chunks = chunks_of([*list(outputs_for("hi", message))[:2], failed], collectors)
    assert next(chunks).text == "hi"
    with pytest.raises(EngineError, match="boom"):
        next(chunks)


def test_a_slow_reader_gets_few_chunks_and_all_of_the_text():
    text = "naïve 🙂 " * 20
    backend = parrot(text)

    async def read():
        chunks = []
        async for chunk in backend.stream(Prompt.of("say>"), SamplingParams(max_tokens=1000)):
            chunks.append(chunk)
            while (await backend.stats()).running:  # as long as it takes
                await asyncio.sleep(0)
        return chunks

    try:
        chunks = asyncio.run(read())
    finally:
        backend.shutdown()
    assert "".join(chunk.text for chunk in chunks) == text
    assert len(chunks) == 2
    assert chunks[1].completion.token_ids == (*text.encode(), EOS)
