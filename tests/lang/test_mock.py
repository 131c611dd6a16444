"""The mock: what users build the tests of their own programs on."""

import asyncio

import pytest

import ramet as rm
from ramet.facade import Facade
from ramet.lang.backends.mock import MockBackend
from ramet.types import Generated, Prompt, RoleBegin, RoleEnd, Text, Tokens


def test_it_is_a_backend():
    assert isinstance(MockBackend(), rm.Backend)


def test_one_reply_for_all():
    mock = Facade(MockBackend("yes"))
    assert [mock.generate("a").text, mock.generate("b").text] == ["yes", "yes"]


def test_a_script_is_used_in_order_and_ends():
    mock = Facade(MockBackend(["one", rm.Overloaded("busy"), "two"]))
    assert mock.generate("a").text == "one"
    with pytest.raises(rm.Overloaded, match="busy"):
        mock.generate("a")
    assert mock.generate("a").text == "two"
    with pytest.raises(rm.BackendError, match="no reply left: 3 were given"):
        mock.generate("a")


def test_a_function_sees_prompt_and_parameters():
    mock = Facade(MockBackend(lambda prompt, params: f"{prompt.parts[0].text}{params.max_tokens}"))
    assert mock.generate("a", max_tokens=5).text == "a5"


def test_an_asynchronous_function():
    async def reply(prompt, params):
        await asyncio.sleep(0)
        return "later"

    assert Facade(MockBackend(reply)).generate("a").text == "later"


def test_streams_are_the_completion_in_words():
    chunks = list(Facade(MockBackend("one two  three ")).stream("a", logprobs=0))
    assert [chunk.text for chunk in chunks] == ["one", " two", "  three", " "]
    assert [chunk.completion is None for chunk in chunks] == [True, True, True, False]
    assert chunks[-1].completion.token_ids == sum((chunk.token_ids for chunk in chunks), ())
    assert chunks[0].logprobs[0].token == "one"


def test_an_empty_reply_is_one_empty_chunk():
    (chunk,) = Facade(MockBackend("")).stream("a")
    assert (chunk.text, chunk.completion.text) == ("", "")


def test_scores():
    def logprobs(mock, *texts):
        return [score.logprobs for score in Facade(mock).score("a", texts)]

    assert logprobs(MockBackend(), "x", "y") == [(-1.0,), (-2.0,)]
    assert logprobs(MockBackend(scores={"x y": -0.5}), "x y", "z") == [(-0.5, -0.5), (-20.0,)]
    assert logprobs(MockBackend(scores=lambda prompt, text: [None, -1.0]), "x") == [(None, -1.0)]


def test_a_delay_comes_before_the_reply():
    mock = MockBackend("x", delay=0.001)
    assert Facade(mock).generate("a").text == "x"
    assert mock.in_flight == 0


def test_rendering_shows_roles_and_tokens():
    parts = (RoleBegin("user"), Text("Hi"), Generated("!", (1,)), RoleEnd("user"), Tokens((5, 6)))
    assert MockBackend().render(Prompt(parts)) == "<|user|>Hi!<|end|><|5,6|>"


def test_calls_are_recorded():
    mock = MockBackend()
    facade = Facade(mock)
    facade.generate("a", top_k=5)
    facade.score("b", ["c"])
    list(facade.stream("d"))
    calls = [(call.kind, call.text) for call in mock.calls]
    assert calls == [("generate", "a"), ("score", "b"), ("stream", "d")]
    assert mock.calls_of("generate")[0].params.top_k == 5
    assert mock.calls_of("score")[0].continuations == ("c",)
