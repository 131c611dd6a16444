"""The facade: one prompt or many, blocking or awaited, over any backend."""

import asyncio
import threading

import pytest

import ramet as rm
from ramet.event_loop import background_loop, run_sync
from ramet.facade import Facade
from ramet.lang.backends.mock import MockBackend
from ramet.types import Prompt, RoleBegin, RoleEnd, Text, Tokens


def echoing():
    backend = MockBackend(lambda prompt, params: f"<{backend.render(prompt)}>")
    return backend


CHAT = [{"role": "user", "content": "Hi"}]
HELLO = Prompt((Text("hello"),))


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("hello", (Text("hello"),)),
        ([5, 6], (Tokens((5, 6)),)),
        (HELLO, (Text("hello"),)),
        (CHAT, (RoleBegin("user"), Text("Hi"), RoleEnd("user"), RoleBegin("assistant"))),
    ],
)
def test_one_prompt_gives_one_completion(written, parts):
    backend = MockBackend("reply")
    assert Facade(backend).generate(written).text == "reply"
    assert backend.calls[0].prompt.parts == parts


def test_a_list_of_prompts_gives_a_list_in_order():
    completions = Facade(echoing()).generate(["a", HELLO, [7], CHAT, "b"])
    assert [completion.text for completion in completions] == [
        "<a>",
        "<hello>",
        "<<|7|>>",
        "<<|user|>Hi<|end|><|assistant|>>",
        "<b>",
    ]
    assert [completion.text for completion in Facade(echoing()).generate(("a",))] == ["<a>"]


def test_several_completions_of_each():
    facade = Facade(MockBackend(["a", "b", "c", "d"]))
    assert [completion.text for completion in facade.generate("x", n=2)] == ["a", "b"]
    (pair,) = facade.generate(["x"], n=2)
    assert [completion.text for completion in pair] == ["c", "d"]


def test_sampling_parameters_reach_the_backend():
    backend = MockBackend()
    Facade(backend).generate("x", temperature=0, stop=["a", "b"], seed=5)
    assert backend.calls[0].params == rm.SamplingParams(temperature=0, stop=("a", "b"), seed=5)


def test_many_prompts_are_in_the_backend_before_any_is_answered():
    arrived = 0
    everybody = asyncio.Event()

    async def reply(prompt, params):
        nonlocal arrived
        arrived += 1
        if arrived == 64:
            everybody.set()
        await everybody.wait()
        return "x"

    assert len(Facade(MockBackend(reply)).generate([f"{i}" for i in range(64)])) == 64


def test_many_prompts_start_in_one_turn_of_the_loop():
    turns = []

    class Counting(MockBackend):
        async def generate(self, prompt, params):
            turns.append(turn[0])
            return await super().generate(prompt, params)

    turn = [0]

    async def count_turns():
        while len(turns) < 64:
            turn[0] += 1
            await asyncio.sleep(0)

    counting = asyncio.run_coroutine_threadsafe(count_turns(), background_loop())
    Facade(Counting()).generate([f"{i}" for i in range(64)])
    counting.result()
    assert len(set(turns)) == 1


def test_one_failure_cancels_the_others_and_is_raised():
    async def reply(prompt, params):
        if prompt.parts[0].text == "bad":
            raise rm.EngineError("boom")
        await asyncio.Event().wait()

    backend = MockBackend(reply)
    with pytest.raises(rm.EngineError, match="boom"):
        Facade(backend).generate(["a", "bad", "b"])
    assert (backend.in_flight, backend.num_cancelled) == (0, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.generate(""), "prompt must not be empty"),
        (lambda f: f.generate([]), "prompt must not be empty"),
        (lambda f: f.generate(["a", ""]), "prompt must not be empty"),
        (lambda f: f.generate(5), "prompt must be a string, token ids, messages"),
        (lambda f: f.generate(["a", 5]), r"prompt\[1\] must be a string, .*got int"),
        (lambda f: f.generate([5, "a"]), "prompt token id must be an integer, got str"),
        (lambda f: f.generate([-1]), "prompt token id must be at least 0"),
        (lambda f: f.generate([{"role": "user"}]), r"messages\[0\]\.content must be a string"),
        (lambda f: f.generate([CHAT[0], "a"]), r"messages\[1\] must be a dict"),
        (lambda f: f.generate("a", temperature=-1), "temperature must be between 0 and 100, got -1"),
        (lambda f: f.generate("a", colour=1), "unknown sampling parameter 'colour'"),
        (lambda f: f.stream(["a", "b"]), "takes one prompt, got a list"),
        (lambda f: f.stream("a", top_p=0), "top_p must be greater than 0"),
        (lambda f: f.score("a", []), "continuations must be a non-empty list"),
        (lambda f: f.score("a", "b"), "continuations must be a non-empty list"),
        (lambda f: f.score("a", ["b", ""]), r"continuations\[1\] must be a non-empty string, got ''"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    backend = MockBackend()
    with pytest.raises(rm.InvalidRequest, match=message):
        call(Facade(backend))
    assert not backend.calls


def test_a_stream_of_chunks():
    chunks = list(Facade(MockBackend("one two")).stream("x"))
    assert [chunk.text for chunk in chunks] == ["one", " two"]
    assert chunks[-1].completion.text == "one two"


class Endless(MockBackend):
    """Streams until it is stopped, and says when it was."""

    def __init__(self):
        super().__init__()
        self.stopped = threading.Event()

    async def stream(self, prompt, params):
        try:
            while True:
                yield rm.Chunk("x")
                await asyncio.sleep(0)
        finally:
            self.stopped.set()


def test_closing_a_stream_early_aborts_it():
    backend = Endless()
    stream = Facade(backend).stream("x")
    assert next(stream).text == "x"
    stream.close()
    assert backend.stopped.is_set()


def test_leaving_the_loop_over_a_stream_aborts_it():
    backend = Endless()
    for chunk in Facade(backend).stream("x"):
        assert chunk.text == "x"
        break
    assert backend.stopped.wait(10)


def test_an_error_comes_out_of_the_stream():
    stream = Facade(MockBackend(rm.EngineError("boom"))).stream("x")
    with pytest.raises(rm.EngineError, match="boom"):
        next(stream)


def test_scores():
    scores = Facade(MockBackend(scores={"a": -1.5, "b": -0.5})).score("x", ("a", "b"))
    assert [(score.text, score.logprobs) for score in scores] == [("a", (-1.5,)), ("b", (-0.5,))]


def test_everything_can_be_awaited():
    facade = Facade(echoing())

    async def main():
        assert (await facade.agenerate("a")).text == "<a>"
        assert [completion.text for completion in await facade.agenerate(["a", "b"])] == ["<a>", "<b>"]
        assert [chunk.text async for chunk in facade.astream("a")] == ["<a>"]
        assert (await facade.ascore("a", ["b"]))[0].text == "b"

    asyncio.run(main())
    run_sync(main())


def test_the_backend_is_called_on_the_background_loop_only():
    loops = set()

    async def reply(prompt, params):
        loops.add(asyncio.get_running_loop())
        return "x"

    facade = Facade(MockBackend(reply))
    facade.generate("a")
    asyncio.run(facade.agenerate("a"))
    list(facade.stream("a"))
    assert loops == {background_loop()}


def test_cancelling_an_awaited_call_aborts_the_request():
    started = threading.Event()

    async def reply(prompt, params):
        started.set()
        await asyncio.Event().wait()

    backend = MockBackend(reply)

    async def main():
        task = asyncio.ensure_future(Facade(backend).agenerate("a"))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (backend.in_flight, backend.num_cancelled) == (0, 1)


def test_closing_an_asynchronous_stream_aborts_it():
    backend = Endless()

    async def main():
        stream = Facade(backend).astream("x")
        assert (await anext(stream)).text == "x"
        await stream.aclose()

    asyncio.run(main())
    assert backend.stopped.is_set()


def test_many_threads_may_share_a_facade():
    facade = Facade(echoing())
    texts = {}

    def work(name):
        texts[name] = [facade.generate(f"{name}{i}").text for i in range(20)]

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(texts[name] == [f"<{name}{i}>" for i in range(20)] for name in "abcdefgh")
