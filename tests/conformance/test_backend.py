"""What every `Backend` must do, run against each implementation that needs no model or network."""

from __future__ import annotations

import asyncio

import pytest

from ramet.backend import Backend
from ramet.errors import InvalidRequest, RametError
from ramet.lang.backends.endpoint import Endpoint
from ramet.lang.backends.mock import MockBackend
from ramet.sampling_params import SamplingParams
from ramet.types import Prompt, Text

REPLY = "one two three"


@pytest.fixture(params=["mock", "local", "endpoint"])
def backend(request):
    if request.param == "mock":
        yield MockBackend(REPLY)
        return
    from parrot import parrot

    local = parrot(REPLY)
    if request.param == "local":
        yield local
    else:
        from serving import listening

        with listening(local) as url, Endpoint(url) as endpoint:
            yield endpoint.backend
    local.shutdown()


PROMPT = Prompt((Text("say>"),))


def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)


def test_generate_gives_n_completions(backend):
    completions = asyncio.run(backend.generate(PROMPT, SamplingParams(n=3)))
    assert [completion.text for completion in completions] == [REPLY] * 3
    assert all(completion.finish_reason == "stop" for completion in completions)
    assert all(completion.token_ids for completion in completions)


def test_the_chunks_of_a_stream_make_up_its_completion(backend):
    async def collect():
        return [chunk async for chunk in backend.stream(PROMPT, SamplingParams())]

    chunks = asyncio.run(collect())
    assert "".join(chunk.text for chunk in chunks) == REPLY
    assert [chunk.completion is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].completion.text == REPLY
    assert sum((chunk.token_ids for chunk in chunks), ()) == chunks[-1].completion.token_ids


def test_scores_have_a_logprob_per_token(backend):
    scores = asyncio.run(backend.score(PROMPT, ["yes", "no"]))
    assert [score.text for score in scores] == ["yes", "no"]
    for score in scores:
        assert len(score.logprobs) == len(score.token_ids) > 0
        assert all(logprob is not None and logprob <= 0 for logprob in score.logprobs)


def test_a_hint_may_be_given(backend):
    asyncio.run(backend.cache_prefix(PROMPT))


def test_prompts_can_be_rendered(backend):
    assert backend.render(PROMPT) == "say>"
    chat = Prompt.from_messages([{"role": "user", "content": "hello there"}])
    assert "hello there" in backend.render(chat)


def test_an_impossible_request_raises_and_harms_nobody(backend):
    async def work():
        with pytest.raises(RametError):
            await backend.score(PROMPT, [])
        return await backend.generate(PROMPT, SamplingParams())

    assert asyncio.run(work())[0].text == REPLY
    assert issubclass(InvalidRequest, RametError)
