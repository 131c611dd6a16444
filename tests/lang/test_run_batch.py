"""Many programs at the same time."""

import logging
import threading

import pytest

import ramet as rm
from ramet.lang.backends.mock import MockBackend

INSTRUCTIONS = "You are a careful assistant. Answer in one word, and never make anything up at all. "


@rm.function
def ask(s, question, style="short"):
    s += f"{style} {question}:" + rm.gen("answer")
    return question


def echo(prompt, params):
    return f"<{prompt.parts[0].text}>"


def test_states_come_in_the_order_of_the_items_and_finished():
    backend = MockBackend(echo)
    states = ask.run_batch([{"question": str(i)} for i in range(40)], backend=backend, temperature=0)

    assert [state["answer"] for state in states] == [f"<short {i}:>" for i in range(40)]
    assert [state.ret_value for state in states] == [str(i) for i in range(40)]
    assert {call.params.temperature for call in backend.calls_of("generate")} == {0}
    assert backend.in_flight == 0


def test_items_may_be_tuples():
    states = ask.run_batch([("a",), ["b", "long"], {"question": "c"}], backend=MockBackend(echo))
    assert [state["answer"] for state in states] == ["<short a:>", "<long b:>", "<short c:>"]


def test_an_empty_batch():
    assert ask.run_batch([], backend=MockBackend()) == []


def test_programs_run_at_the_same_time(make_gate):
    gate = make_gate(opens_at=20)

    async def reply(prompt, params):
        await gate.pass_through()
        return "x"

    states = ask.run_batch([{"question": str(i)} for i in range(20)], backend=MockBackend(reply))
    assert len(states) == 20


def test_num_threads_bounds_how_many_programs_run():
    running, most = 0, 0
    lock = threading.Lock()

    @rm.function
    def program(s, i):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        s += "x" + rm.gen("y")
        s.sync()
        with lock:
            running -= 1

    program.run_batch([{"i": i} for i in range(12)], backend=MockBackend(), num_threads=3)
    assert most <= 3


def test_async_programs_in_a_batch():
    @rm.function
    async def program(s, question):
        s += question + rm.gen("answer")
        return await s.aget("answer")

    states = program.run_batch([("a",), ("b",)], backend=MockBackend(echo))
    assert [state.ret_value for state in states] == ["<a>", "<b>"]


def test_one_failing_item_leaves_the_others_to_finish(caplog):
    def reply(prompt, params):
        return rm.EngineError("boom") if " 3:" in prompt.parts[0].text else "fine"

    with caplog.at_level(logging.WARNING, logger="ramet"):
        states = ask.run_batch([{"question": str(i)} for i in range(6)], backend=MockBackend(reply))

    assert [state["answer"] for i, state in enumerate(states) if i != 3] == ["fine"] * 5
    assert isinstance(states[3].error(), rm.EngineError)
    with pytest.raises(rm.ProgramError, match=r"^item 3 of run_batch: program 'ask': variable 'answer'"):
        _ = states[3]["answer"]
    assert "1 of 6 items of run_batch failed: 3 (item 3: EngineError: boom)" in caplog.text


def test_an_exception_in_the_code_of_one_item(caplog):
    mine = ZeroDivisionError("mine")

    @rm.function
    def program(s, i):
        s += "x" + rm.gen("before")
        if i == 1:
            raise mine
        s += rm.gen("after")

    states = program.run_batch([{"i": i} for i in range(3)], backend=MockBackend())
    assert states[1].error() is mine
    assert states[1]["before"] == "mock"
    for read in (states[1].text, lambda: states[1]["after"], lambda: states[1].ret_value):
        with pytest.raises(rm.ProgramError, match=r"^item 1 of run_batch: .*Error: mine") as caught:
            read()
        assert caught.value.__cause__ is mine
    assert [states[i]["after"] for i in (0, 2)] == ["mock", "mock"]
    assert "failed: 1 " in caplog.text


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (
            [{"question": "a"}, {"style": "b"}],
            {},
            "item 1 of run_batch: .*needs the argument 'question'",
        ),
        (
            [{"question": "a", "colour": 1}],
            {},
            "item 0 of run_batch: .*unknown argument 'colour': its parameters are question, style",
        ),
        ([{"question": "a", "temperature": 1}], {}, "sampling parameters go to run_batch itself"),
        ([("a", "b", "c")], {}, "item 0 of run_batch: .*too many positional"),
        ([{"question": "a"}, "b"], {}, "item 1 of run_batch must be a dict or a tuple"),
        ({"question": "a"}, {}, "must be a list of dicts or tuples, got dict"),
        ([{"question": "a"}], {"num_threads": 0}, "num_threads must be"),
        ([{"question": "a"}], {"colour": 1}, "unknown sampling parameter 'colour'"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_before_anything_runs(items, options, message):
    backend = MockBackend()
    with pytest.raises(rm.InvalidRequest, match=message):
        ask.run_batch(items, backend=backend, **options)
    assert not backend.calls


def instructed(backend, instructions=INSTRUCTIONS, count=5):
    @rm.function
    def program(s, question):
        s += instructions + f"Question: {question}\n" + rm.gen("answer")

    program.run_batch([{"question": f"{i}?"} for i in range(count)], backend=backend)
    return [call.text for call in backend.calls_of("cache_prefix")]


def test_what_the_prompts_share_is_announced_once():
    assert instructed(MockBackend()) == [INSTRUCTIONS + "Question: "]


def test_a_short_prefix_or_a_single_program_is_not_announced():
    assert instructed(MockBackend(), instructions="Short. ") == []
    assert instructed(MockBackend(), count=1) == []


def test_messages_are_shared_as_well():
    @rm.function
    def program(s, question):
        s += rm.system(INSTRUCTIONS) + rm.user(question) + rm.assistant(rm.gen("answer"))

    backend = MockBackend()
    program.run_batch([("Why?",), ("Who?",)], backend=backend)
    (hint,) = backend.calls_of("cache_prefix")
    assert hint.text == f"<|system|>{INSTRUCTIONS}<|end|><|user|>Wh"


def test_iterating_runs_chunk_by_chunk():
    backend = MockBackend(echo)
    states = ask.run_batch([{"question": str(i)} for i in range(450)], backend=backend, generator_style=True)
    assert not backend.calls
    first = next(states)
    assert first["answer"] == "<short 0:>"
    assert len(backend.calls_of("generate")) == 200
    assert [state["answer"] for state in states][-1] == "<short 449:>"


def test_a_progress_bar_on_standard_error(capsys):
    ask.run_batch([("a",), ("b",)], backend=MockBackend(), progress_bar=True)
    captured = capsys.readouterr()
    assert "ask" in captured.err
    assert "2/2" in captured.err
    assert captured.out == ""


def test_batches_inside_programs():
    @rm.function
    def outer(s, i):
        return [state["answer"] for state in ask.run_batch([(f"{i}a",), (f"{i}b",)])]

    states = outer.run_batch([(i,) for i in range(3)], backend=MockBackend(echo), num_threads=2)
    assert states[2].ret_value == ["<short 2a:>", "<short 2b:>"]
