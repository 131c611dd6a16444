"""Text in, text out over a fake runner: stops, streams, branches, scores, errors, threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot import parrot

from ramet.errors import EngineDead, EngineError, InvalidRequest, PromptTooLong, RequestAborted
from ramet.event_loop import run_sync
from ramet.facade import Facade
from ramet.sampling_params import SamplingParams
from ramet.types import Generated, Prompt, Text, Tokens


@pytest.fixture
def serve():
    """Makes facades over parrots and shuts them down at the end."""
    backends = []

    def make(reply, **options):
        backends.append(parrot(reply, **options))
        return Facade(backends[-1])

    yield make
    for backend in backends:
        backend.shutdown()


def stats(facade):
    return run_sync(facade.backend.stats())


def test_generate(serve):
    completion = serve("hello").generate("say>", temperature=0)
    assert completion.text == "hello"
    assert completion.finish_reason == "stop"
    assert completion.stop_reason is None
    assert completion.usage.prompt_tokens == 4
    assert completion.usage.completion_tokens == 6  # EOS counts
    assert len(completion.token_ids) == 6


def test_so_much_text_is_refused_before_it_is_encoded(serve):
    engine = serve("hello")
    with pytest.raises(PromptTooLong, match=r"1000000 characters; no 4096 tokens.* spell more than"):
        engine.generate("x" * 1_000_000)
    with pytest.raises(PromptTooLong, match="20001 tokens"):  # on another thread: it may well fit
        serve("hello", num_slots=8192).generate("x" * 20_000 + ">")


def test_half_characters_are_refused(serve):
    with pytest.raises(InvalidRequest, match="not text"):
        serve("hello").generate("\ud800>")


def test_length(serve):
    completion = serve("hello").generate("say>", max_tokens=3)
    assert (completion.text, completion.finish_reason) == ("hel", "length")


def test_a_list_of_prompts_gives_a_list(serve):
    assert [c.text for c in serve("hi").generate(["a>", "b>", "c>"])] == ["hi"] * 3


def test_n_branches_share_their_prompt(serve):
    engine = serve("hi")
    assert [c.text for c in engine.generate("some longer prompt>", n=4)] == ["hi"] * 4
    assert stats(engine).computed_tokens == len("some longer prompt>")


@pytest.mark.parametrize(
    ("sampling", "text", "reason"),
    [
        ({"stop": "wor"}, "hello ", "wor"),
        ({"stop": ["xyz", "lo w"]}, "hel", "lo w"),
        ({"stop": "h"}, "", "h"),
        ({"stop_regex": r"w\w+d"}, "hello ", r"w\w+d"),
        ({"stop": "never"}, "hello world", None),
        ({"stop": "o", "min_tokens": 6}, "hello w", "o"),
        ({"stop_token_ids": [ord("w")]}, "hello ", ord("w")),
        ({"stop": "world!"}, "hello world", None),
    ],
)
def test_stops(serve, sampling, text, reason):
    engine = serve("hello world")
    completion = engine.generate("say>", **sampling)
    assert (completion.text, completion.stop_reason) == (text, reason)
    chunks = list(engine.stream("say>", **sampling))
    assert "".join(chunk.text for chunk in chunks) == text
    assert chunks[-1].completion == completion or chunks[-1].completion.text == text


def test_a_stream_never_shows_text_that_a_stop_may_claim(serve):
    shown = ""
    for chunk in serve("one STO two STOP three").stream("say>", stop="STOP"):
        shown += chunk.text
        assert not shown.endswith("S")
        assert "STOP" not in shown
    assert shown == "one STO two "


def test_a_stream_never_shows_half_a_character(serve):
    chunks = list(serve("naïve 🙂 end").stream("say>"))
    assert "".join(chunk.text for chunk in chunks) == "naïve 🙂 end"
    assert all("\ufffd" not in chunk.text for chunk in chunks)


def test_a_character_cut_by_max_tokens_is_replaced(serve):
    assert serve("🙂").generate("say>", max_tokens=2).text == "\ufffd"


def test_streams_of_branches_carry_their_index(serve):
    texts = {0: "", 1: ""}
    for chunk in serve("hello").stream("say>", n=2):
        texts[chunk.index] += chunk.text
    assert texts == {0: "hello", 1: "hello"}


def test_logprobs(serve):
    engine = serve("hi")
    completion = engine.generate("say>", logprobs=2)
    assert [entry.token for entry in completion.logprobs] == ["h", "i", "<eos>"]
    assert [entry.token_id for entry in completion.logprobs] == list(completion.token_ids)
    assert all(len(entry.top) == 2 for entry in completion.logprobs)
    assert engine.generate("say>").logprobs is None
    streamed = [entry for chunk in engine.stream("say>", logprobs=2) for entry in chunk.logprobs]
    assert streamed == list(completion.logprobs)


def test_score_takes_one_step(serve):
    engine = serve("")
    scores = engine.score("a prompt>", ["one", "two", "three"])
    assert [len(score.logprobs) for score in scores] == [3, 3, 5]
    assert [bytes(score.token_ids).decode() for score in scores] == ["one", "two", "three"]
    after = stats(engine)
    assert after.steps == 1
    assert after.rows == len("a prompt>") + len("on") + len("two") - 1 + len("hree") - 1


def test_score_without_a_prompt_has_no_first_logprob(serve):
    engine = serve("")
    (score,) = run_sync(engine.backend.score(Prompt(), ["abc"]))
    assert score.logprobs[0] is None
    assert len(score.logprobs) == 3
    (single,) = run_sync(engine.backend.score(Prompt(), ["a"]))
    assert single.logprobs == (None,)


def test_a_continued_conversation_keeps_its_tokens(serve):
    engine = serve("hello")
    first = engine.generate("say>", stop="o")
    prompt = Prompt((Text("say>"), Generated(first.text, first.token_ids), Text(" and more>")))
    assert engine.generate(prompt).usage.cached_tokens == len("say>hell")


def test_the_empty_continuation_of_a_hint(serve):
    engine = serve("hi")
    run_sync(engine.backend.cache_prefix(Prompt.of("a long prefix")))
    assert engine.generate("a long prefix>").usage.cached_tokens == len("a long prefix")


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ("", {}, "prompt must not be empty"),
        ([], {}, "prompt must not be empty"),
        ("a>", {"max_new_tokens": 3}, "did you mean max_tokens"),
        ("a>", {"temperature": -1}, "temperature must be between 0 and 100, got -1"),
        ("a>", {"temperature": "hot"}, "temperature must be a number, got str"),
        ("a>", {"stop": [""]}, "stop must not contain an empty string"),
        ("a>", {"stop": [3]}, "stop must hold strings, got int"),
        ("a>", {"stop_regex": "("}, "does not compile"),
        ("a>", {"stop_regex": "a*"}, "matches the empty string"),
        ("a>", {"stop_regex": "(" * 3000 + ")" * 3000}, "does not compile"),
        ("a>", {"top_p": 0}, "top_p must be greater than 0"),
        ("a>", {"n": 0}, "n must be at least 1"),
        ("a>", {"n": 5000}, "n must be at most 1024, got 5000"),
        ("a>", {"stop_token_ids": [999]}, "999 is outside the vocabulary"),
        ("a>", {"max_tokens": 2.5}, "max_tokens must be an integer, got float"),
        ("a>", {"min_tokens": 9, "max_tokens": 3}, "min_tokens (9) must not exceed max_tokens (3)"),
        ([1, 400], {}, "400 is outside the vocabulary"),
        (Prompt((Tokens(("x",)),)), {}, "prompt token ids must be integers, got str"),
        (Prompt((Tokens((1.5,)),)), {}, "prompt token ids must be integers, got float"),
        (7, {}, "prompt must be a string"),
    ],
)
def test_bad_input_is_refused_and_the_engine_keeps_serving(serve, prompt, sampling, message):
    engine = serve("hi")
    with pytest.raises(InvalidRequest) as caught:
        engine.generate(prompt, **sampling)
    assert message in str(caught.value)
    assert engine.generate("a>").text == "hi"


def test_a_prompt_that_cannot_fit_is_refused_with_numbers(serve):
    with pytest.raises(PromptTooLong, match="the prompt has 101 tokens, the KV pool holds 64"):
        serve("hi", num_slots=64).generate("x" * 100 + ">")


def test_a_catastrophic_stop_regex_ends_its_own_request_only(serve):
    engine = serve("a" * 60)
    with pytest.raises(InvalidRequest, match="took more than"):
        engine.generate("say>", stop_regex=r"((a|aa)+)+c", max_tokens=60)
    assert engine.generate("say>", max_tokens=3).text == "aaa"


def test_an_endless_recursion_in_a_stop_regex_ends_its_own_request_only(serve):
    engine = serve("abc")
    with pytest.raises(InvalidRequest, match="too much memory"):
        engine.generate("say>", stop_regex="x|(?=c)(?R)")
    assert engine.generate("say>").text == "abc"


def test_a_failing_step_is_an_engine_error_and_the_engine_keeps_serving(serve):
    def explode(context):
        if context[0] == ord("!"):
            raise RuntimeError("boom")

    engine = serve("hi", on_step=explode)
    with pytest.raises(EngineError, match="boom"):
        engine.generate("!>")
    with pytest.raises(EngineError, match="boom"):
        list(engine.stream("!>"))
    assert engine.generate("a>").text == "hi"


def test_closing_a_stream_early_aborts_its_request(serve):
    engine = serve("x" * 1000)
    stream = engine.stream("say>", max_tokens=1000)
    next(stream)
    stream.close()
    while stats(engine).running:
        pass
    assert run_sync(engine.backend.flush_cache())


def test_cancelling_aborts(serve):
    engine = serve("x" * 1000)

    async def cancel_soon():
        task = asyncio.ensure_future(
            engine.backend.generate(Prompt.of("say>"), SamplingParams(max_tokens=1000))
        )
        while (await engine.backend.stats()).steps < 3:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while (await engine.backend.stats()).running:
            await asyncio.sleep(0)

    run_sync(cancel_soon())
    assert run_sync(engine.backend.flush_cache())


def test_many_threads(serve):
    engine = serve("hello")

    def work(index):
        if index % 3 == 0:
            return "".join(chunk.text for chunk in engine.stream(f"{index}>"))
        return engine.generate(f"{index % 7}>", temperature=1.0).text

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(200))) == ["hello"] * 200
    assert stats(engine).running == 0


def test_shutdown_ends_what_runs_and_refuses_what_comes(serve):
    started = threading.Event()
    engine = serve("x" * 4000, on_step=lambda context: started.set())
    caught = []

    def work():
        try:
            engine.generate("say>", max_tokens=4000)
        except RequestAborted as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    engine.backend.shutdown()
    thread.join()
    assert len(caught) == 1
    with pytest.raises(EngineDead, match="shut down"):
        engine.generate("say>")
    engine.backend.shutdown()


@settings(max_examples=60, deadline=None)
@given(
    reply=st.text(alphabet="abé🙂", max_size=12),
    stop=st.lists(st.text(alphabet="abé🙂", min_size=1, max_size=3), max_size=3),
    max_tokens=st.integers(1, 40),
)
def test_streams_equal_completions_for_any_text_and_stops(reply, stop, max_tokens):
    backend = parrot(reply)
    try:
        engine = Facade(backend)
        completion = engine.generate("say>", stop=stop, max_tokens=max_tokens)
        chunks = list(engine.stream("say>", stop=stop, max_tokens=max_tokens))
    finally:
        backend.shutdown()
    assert "".join(chunk.text for chunk in chunks) == completion.text
    assert sum((chunk.token_ids for chunk in chunks), ()) == completion.token_ids
    said = reply.encode()[:max_tokens].decode(errors="replace")
    cuts = [said.find(text) for text in stop if text in said]
    # The stop that is complete first ends the text; of two complete at once, the one that begins first.
    if not cuts:
        assert completion.text == said
    else:
        assert said.startswith(completion.text)
        assert not any(text in completion.text for text in stop)
        assert completion.stop_reason in stop
