"""Following a program's text while it is being written."""

import asyncio
import threading

import pytest

import ramet as rm
from ramet.lang.backends.mock import MockBackend


@rm.function
def story(s):
    s += "Once " + rm.gen("first") + " then " + rm.gen("second", n=2) + " end"


def replies():
    return MockBackend(["upon a time", "it was over", "nothing"])


def test_the_whole_text_with_its_constants():
    state = story.run(backend=replies(), stream=True)
    pieces = list(state.text_iter())
    assert "".join(pieces) == state.text() == "Once upon a time then it was over end"
    assert pieces[:4] == ["Once ", "upon", " a", " time"]
    assert state["second"] == ["it was over", "nothing"]


def test_one_variable():
    state = story.run(backend=replies(), stream=True)
    assert list(state.text_iter("first")) == ["upon", " a", " time"]
    assert "".join(state.text_iter("second")) == "it was over"


def test_late_and_many_consumers_get_everything():
    state = story.run(backend=replies(), stream=True)
    texts = []
    threads = [threading.Thread(target=lambda: texts.append("".join(state.text_iter()))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts.append("".join(state.text_iter()))
    assert texts == ["Once upon a time then it was over end"] * 6


def test_without_stream_there_is_one_piece():
    state = story.run(backend=replies())
    assert list(state.text_iter()) == [state.text()]
    assert list(state.text_iter("first")) == ["upon a time"]


@pytest.mark.parametrize("stream", [False, True])
def test_of_several_completions_the_first_is_the_text(stream):
    @rm.function
    def program(s):
        s += rm.gen("several", n=2)

    state = program.run(backend=MockBackend(["a b", "c"]), stream=stream)
    assert "".join(state.text_iter("several")) == "".join(state.text_iter()) == "a b"
    assert state["several"] == ["a b", "c"]


def test_pieces_arrive_before_the_end(gate):
    class Slow(MockBackend):
        async def stream(self, prompt, params):
            async for chunk in MockBackend.stream(self, prompt, params):
                if chunk.completion is not None:
                    await gate.pass_through()
                yield chunk

    state = story.bind().run(backend=Slow("one two"), stream=True)
    pieces = state.text_iter("first")
    assert next(pieces) == "one"
    gate.open()
    assert list(pieces) == [" two"]


def test_the_code_may_follow_its_own_text():
    @rm.function
    def program(s):
        s += "a " + rm.gen("x")
        seen = ["".join(s.text_iter()), "".join(s.text_iter("x"))]
        s += " b"
        return seen

    state = program.run(backend=MockBackend("one two"), stream=True)
    assert state.ret_value == ["a one two", "one two"]
    assert "".join(state.text_iter()) == "a one two b"


def test_a_variable_can_be_asked_for_before_the_code_has_written_it(gate, gated):
    @rm.function
    def program(s):
        s += "a" + rm.gen("x")
        s["y"] = s["x"] + "!"
        s += rm.select("z", choices=["yes", "no"])
        s["number"] = 5

    class Gated(MockBackend):
        async def stream(self, prompt, params):
            await gate.pass_through()
            async for chunk in MockBackend.stream(self, prompt, params):
                yield chunk

    state = program.run(backend=Gated("late"), stream=True)
    assert "y" not in state
    gate.await_arrivals(1)
    threading.Timer(0.01, gate.open).start()
    assert state["y"] == "late!"
    assert "".join(state.text_iter("z")) == "yes"
    assert list(state.text_iter("number")) == ["5"]


def test_an_unknown_variable_is_known_to_be_unknown_at_the_end():
    state = story.run(backend=replies(), stream=True)
    with pytest.raises(rm.UnknownVariable, match="known: first, second"):
        list(state.text_iter("third"))


def test_a_failure_comes_after_the_pieces_before_it():
    state = story.run(backend=MockBackend(["upon a time", rm.EngineError("boom")]), stream=True)
    pieces = []
    with pytest.raises(rm.ProgramError, match="EngineError: boom"):
        pieces.extend(state.text_iter())
    assert "".join(pieces) == "Once upon a time then "
    with pytest.raises(rm.ProgramError, match="variable 'second' was not produced"):
        list(state.text_iter("second"))


def test_messages_are_streamed_the_way_they_are_rendered():
    @rm.function
    def chat(s):
        s += rm.user("Hi") + rm.assistant(rm.gen("x"))

    state = chat.run(backend=MockBackend("hello you"), stream=True)
    pieces = list(state.text_iter())
    assert pieces == ["<|user|>", "Hi", "<|end|>", "<|assistant|>", "hello", " you", "<|end|>"]
    assert "".join(pieces) == state.text()


def test_forks_are_streamed_with_what_came_before():
    @rm.function
    def program(s):
        s += "root"
        (fork,) = s.fork()
        fork += " branch " + rm.gen("x")
        s += " trunk"
        return fork

    state = program.run(backend=MockBackend("one two"), stream=True)
    assert "".join(state.ret_value.text_iter()) == "root branch one two"
    assert "".join(state.text_iter()) == "root trunk"


def test_asynchronous_iteration_on_any_loop():
    state = story.run(backend=replies(), stream=True)

    async def consume():
        return [piece async for piece in state.text_async_iter()]

    assert "".join(asyncio.run(consume())) == state.text()


def test_asynchronous_iteration_with_meta_data():
    state = story.run(backend=replies(), stream=True, logprobs=0)

    async def consume():
        return [pair async for pair in state.text_async_iter("first", return_meta_data=True)]

    pairs = asyncio.run(consume())
    assert [text for text, _ in pairs] == ["upon", " a", " time"]
    assert [meta["finish_reason"] for _, meta in pairs] == [None, None, "stop"]
    assert [entry.token for entry in pairs[1][1]["logprobs"]] == [" a"]
    assert pairs[-1][1] == state.get_meta_info("first")


def test_leaving_the_iterator_early_leaves_the_program_alone():
    state = story.run(backend=replies(), stream=True)
    for piece in state.text_iter():
        assert piece
        break
    assert state.text().endswith(" end")
