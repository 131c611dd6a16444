"""What goes wrong is raised where a value is read, with its cause; what went right stays readable."""

import pytest

import ramet as rm
from ramet.lang.backends.mock import MockBackend


@rm.function
def three(s):
    s += "a" + rm.gen("x") + "b" + rm.gen("y") + "c" + rm.gen("z")


def test_a_failure_stops_the_program_and_is_raised_on_reading():
    boom = rm.EngineError("boom")
    backend = MockBackend(["fine", boom, "never"])
    state = three.run(backend=backend)

    assert state["x"] == "fine"
    for name in ("y", "z"):
        with pytest.raises(rm.ProgramError) as caught:
            _ = state[name]
        assert str(caught.value) == (
            f"program 'three': variable {name!r} was not produced: EngineError: boom"
        )
        assert caught.value.__cause__ is boom
    for read in (state.text, state.messages, state.sync, lambda: list(state.text_iter())):
        with pytest.raises(rm.ProgramError, match="program 'three' failed: EngineError: boom") as caught:
            read()
        assert caught.value.__cause__ is boom
    assert state.error() is boom
    assert state.get_meta_info("x")["finish_reason"] == "stop"
    assert len(backend.calls) == 2, "what comes after the failure is not asked for"


def test_without_a_failure_there_is_no_error():
    assert three.run(backend=MockBackend()).error() is None


def test_an_unexpected_error_of_a_backend_is_no_different():
    state = three.run(backend=MockBackend(ZeroDivisionError("a bug")))
    with pytest.raises(rm.ProgramError, match="ZeroDivisionError: a bug"):
        _ = state["x"]


def test_a_failed_select():
    @rm.function
    def program(s):
        s += "x" + rm.select("y", choices=["a"])

    def no_scores(prompt, choice):
        raise rm.UnsupportedFeature("cannot score")

    state = program.run(backend=MockBackend(scores=no_scores))
    with pytest.raises(rm.ProgramError, match="UnsupportedFeature: cannot score"):
        _ = state["y"]


def test_a_scope_that_was_not_finished():
    @rm.function
    def program(s):
        with s.var_scope("inner"):
            s += rm.gen()

    with pytest.raises(rm.ProgramError, match="variable 'inner' was not produced: EngineError: boom"):
        _ = program.run(backend=MockBackend(rm.EngineError("boom")))["inner"]


def test_an_unknown_variable_lists_the_known_ones():
    state = three.run(backend=MockBackend())
    with pytest.raises(rm.UnknownVariable) as caught:
        _ = state["answer"]
    assert str(caught.value) == "program 'three' sets no variable 'answer' (known: x, y, z)"
    assert isinstance(caught.value, KeyError)
    with pytest.raises(rm.UnknownVariable):
        state.get_meta_info("answer")


def test_an_exception_in_the_code_is_raised_by_run_as_it_is(gate, gated):
    @rm.function
    def program(s):
        s += "a" + rm.gen("x")
        gate.await_arrivals(1)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        program.run(backend=gated)


def test_reading_a_failed_value_in_the_code_fails_the_code():
    @rm.function
    def program(s):
        s += "a" + rm.gen("x")
        return s["x"].upper()

    with pytest.raises(rm.ProgramError, match="boom"):
        program.run(backend=MockBackend(rm.EngineError("boom")))


def test_the_code_can_handle_a_failure():
    @rm.function
    def program(s):
        s += "a"
        (fork,) = s.fork()
        fork += rm.gen("x")
        try:
            answer = fork["x"]
        except rm.ProgramError:
            answer = "unknown"
        s += answer

    assert program.run(backend=MockBackend(rm.EngineError("boom"))).text() == "aunknown"


def test_a_streamed_program_raises_its_own_exception_where_it_is_read():
    mine = ZeroDivisionError("mine")

    @rm.function
    def program(s):
        s += "a" + rm.gen("x")
        raise mine

    state = program.run(backend=MockBackend(), stream=True)
    pieces = []
    with pytest.raises(ZeroDivisionError, match="mine"):
        pieces.extend(state.text_iter())
    for read in (state.text, state.sync, lambda: state.ret_value):
        with pytest.raises(ZeroDivisionError, match="mine"):
            read()
    assert state.error() is mine
    assert state["x"] == "mock"
    with pytest.raises(rm.ProgramError, match="'y' was not set before the program raised Zero"):
        _ = state["y"]


def test_a_backend_that_breaks_its_promise_is_reported():
    class Forgetful(MockBackend):
        async def generate(self, prompt, params):
            return []

        async def score(self, prompt, continuations):
            return []

        async def stream(self, prompt, params):
            return
            yield

    @rm.function
    def choose(s):
        s += rm.select("x", choices=["a"])

    with pytest.raises(rm.ProgramError, match="returned 0 completions, not 1"):
        _ = three.run(backend=Forgetful())["x"]
    with pytest.raises(rm.ProgramError, match="returned 0 completions, not 1"):
        _ = three.run(backend=Forgetful(), stream=True)["x"]
    with pytest.raises(rm.ProgramError, match="returned 0 scores, not 1"):
        _ = choose.run(backend=Forgetful())["x"]


def test_many_readers_of_one_failure_each_get_their_own_error():
    state = three.run(backend=MockBackend(rm.EngineError("boom")))
    errors = []
    for _ in range(2):
        with pytest.raises(rm.ProgramError) as caught:
            _ = state["x"]
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert errors[0].__cause__ is errors[1].__cause__
