"""Forks: where they begin, that they run at the same time, what they inherit, and joining them."""

import pytest

import ramet as rm
from ramet.errors import ProgramError
from ramet.lang.backends.mock import MockBackend
from ramet.types import Generated


def test_eight_forks_are_in_flight_at_the_same_time(make_gate):
    gate = make_gate(opens_at=8)  # nobody gets an answer before all eight have asked

    async def reply(prompt, params):
        await gate.pass_through()
        return "here"

    @rm.function
    def program(s):
        s += "root"
        forks = s.fork(8)
        forks += rm.gen("x")
        forks.join()

    assert program.run(backend=MockBackend(reply))["x"] == ["here"] * 8


def test_the_parent_goes_on_while_its_forks_run(make_gate):
    gate = make_gate(opens_at=2)

    async def reply(prompt, params):
        await gate.pass_through()
        return "here"

    @rm.function
    def program(s):
        s += "root"
        (fork,) = s.fork()
        fork += " branch" + rm.gen("x")
        s += " trunk" + rm.gen("y")
        return fork["x"]

    state = program.run(backend=MockBackend(reply))
    assert (state.ret_value, state["y"]) == ("here", "here")


def test_forking_does_not_wait_for_the_parent(gate, gated):
    @rm.function
    def program(s):
        s += "root" + rm.gen("slow")
        forks = s.fork(2)
        forks += "branch"
        gate.open()
        return [fork.text() for fork in forks]

    assert program.run(backend=gated).ret_value == ["rootlatebranch"] * 2


def test_a_fork_starts_from_the_point_where_it_was_made():
    @rm.function
    def program(s):
        s += "one"
        forks = s.fork(2)
        s += " two"
        forks += " branch"
        return [fork.text() for fork in forks]

    state = program.run(backend=MockBackend())
    assert state.ret_value == ["one branch"] * 2
    assert state.text() == "one two"


def test_a_fork_before_any_text():
    @rm.function
    def program(s):
        forks = s.fork(2)
        forks += lambda i: f"{i}:" + rm.gen("x")
        forks.join()

    backend = MockBackend()
    assert program.run(backend=backend)["x"] == ["mock", "mock"]
    assert not backend.calls_of("cache_prefix"), "there is nothing to announce"


def test_the_prompt_is_announced_once_before_the_forks_ask():
    @rm.function
    def program(s):
        s += "root"
        forks = s.fork(3)
        forks += rm.gen("x")
        single = s.fork()
        single += rm.gen("y")
        forks.join()
        single.join()

    backend = MockBackend()
    program.run(backend=backend).sync()
    assert [call.kind for call in backend.calls].count("cache_prefix") == 1
    assert (backend.calls[0].kind, backend.calls[0].text) == ("cache_prefix", "root")


def test_a_failing_hint_is_no_failure_of_the_program(caplog):
    class NoHints(MockBackend):
        async def cache_prefix(self, prompt):
            raise rm.BackendError("no hints here")

    @rm.function
    def program(s):
        s += "root"
        forks = s.fork(2)
        forks += rm.gen("x")
        forks.join()

    with caplog.at_level("DEBUG", logger="ramet"):
        assert program.run(backend=NoHints())["x"] == ["mock", "mock"]
    assert "no hints here" in caplog.text


def test_forks_inherit_variables_meta_info_and_the_open_message():
    @rm.function
    def program(s):
        s += rm.user("Hi") + rm.assistant_begin() + rm.gen("x")
        s["y"] = 5
        (fork,) = s.fork()
        assert "x" in fork
        fork += " and" + rm.assistant_end() + rm.user("Bye")
        fork["y"] = 6
        return fork["x"], fork["y"], fork.get_meta_info("x"), fork.messages()

    state = program.run(backend=MockBackend("hello"))
    x, y, meta, messages = state.ret_value
    assert (x, y, state["y"]) == ("hello", 6, 5)
    assert meta == state.get_meta_info("x") is not None
    assert [message["content"] for message in messages] == ["Hi", "hello and", "Bye"]


def test_ways_to_append_to_forks():
    @rm.function
    def program(s):
        s += "r"
        forks = s.fork(3)
        forks += "a"
        forks += ["0", "1", "2"]
        forks += lambda i: str(i * i)
        forks[1] += "!"
        for fork in forks:
            fork += "."
        return len(forks), [fork.text() for fork in forks]

    assert program.run(backend=MockBackend()).ret_value == (3, ["ra00.", "ra11!.", "ra24."])


def test_gathered_variables_are_lists_in_fork_order():
    @rm.function
    def program(s):
        s["old"] = "parent's"
        s += "root"
        with s.fork(3) as forks:
            for i, fork in enumerate(forks):
                fork += f"{i}" + rm.gen("x")
                fork["index"] = i
                fork["old"] = "fork's"
            forks[2] += rm.gen("extra")

    state = program.run(backend=MockBackend(lambda prompt, params: f"<{prompt.parts[0].text}>"))
    assert state["x"] == ["<root0>", "<root1>", "<root2>"]
    assert state["index"] == [0, 1, 2]
    assert state["extra"] == ["<root2>"]
    assert state["old"] == "parent's"
    assert [meta["finish_reason"] for meta in state.get_meta_info("x")] == ["stop"] * 3
    assert state.text() == "root"


def test_concatenated_forks_keep_their_tokens():
    @rm.function
    def program(s):
        s += "root"
        forks = s.fork(2)
        forks += lambda i: f"\n{i}:" + rm.gen("x")
        forks.join("concate_and_append")
        s += "\nend" + rm.gen()

    backend = MockBackend("text")
    state = program.run(backend=backend)
    assert state.text() == "root\n0:text\n1:text\nendtext"
    parts = backend.calls[-1].prompt.parts
    assert [part.text for part in parts if isinstance(part, Generated)] == ["text", "text"]
    assert "x" not in state


def test_a_second_join_appends_only_what_is_new():
    @rm.function
    def program(s):
        s += "root"
        forks = s.fork(2)
        forks += "a"
        forks.join("concate_and_append")
        forks += "b"
        forks.join("concate_and_append")
        return [fork.text() for fork in forks]

    state = program.run(backend=MockBackend())
    assert state.text() == "rootaabb"
    assert state.ret_value == ["rootab", "rootab"]


def test_forks_of_forks():
    @rm.function
    def program(s):
        s += "r"
        with s.fork(2) as outer:
            for i, branch in enumerate(outer):
                branch += str(i)
                with branch.fork(2) as inner:
                    inner += lambda j: f"{j}" + rm.gen("x")

    state = program.run(backend=MockBackend(lambda prompt, params: prompt.parts[0].text))
    assert state["x"] == [["r00", "r01"], ["r10", "r11"]]


def test_a_copy_is_joined():
    @rm.function
    def program(s):
        s += "root"
        with s.copy() as copy:
            copy += rm.gen("x")
            return copy.text()

    state = program.run(backend=MockBackend())
    assert state.ret_value == "rootmock"
    assert (state.text(), state["x"]) == ("root", ["mock"])


def test_joining_an_open_message_is_refused():
    @rm.function
    def program(s):
        forks = s.fork(2)
        forks[1] += rm.user_begin() + "?"
        forks.join("concate_and_append")

    with pytest.raises(rm.InvalidRequest, match="fork 1 of program 'program' stands in the user message"):
        program.run(backend=MockBackend())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda s: s.fork(0), "at least 1, got 0"),
        (lambda s: s.fork("2"), "at least 1, got '2'"),
        (lambda s: s.fork(2).join("zip"), "mode must be gather_variable or concate_and_append, got 'zip'"),
        (lambda s: s.fork(2).__iadd__(["a"]), "1 expressions for 2 forks"),
        (lambda s: s.fork(2).__setitem__(0, s), "cannot be replaced"),
    ],
)
def test_mistakes_with_forks(write, message):
    @rm.function
    def program(s):
        write(s)

    with pytest.raises(rm.InvalidRequest, match=message):
        program.run(backend=MockBackend())


# --------------------------------------------------------------------------------------------- failures


def fail_on(word):
    def reply(prompt, params):
        if word in prompt.parts[-1].text:
            return rm.EngineError(f"no answer to {word}")
        return "fine"

    return MockBackend(reply)


def test_a_failed_fork_harms_neither_its_siblings_nor_the_parent():
    @rm.function
    def program(s):
        s += "root "
        forks = s.fork(3)
        forks += lambda i: f"<{i}>" + rm.gen("x")
        s += "goes on" + rm.gen("y")
        return forks

    state = program.run(backend=fail_on("<1>"))
    forks = state.ret_value
    assert (forks[0]["x"], forks[2]["x"], state["y"]) == ("fine", "fine", "fine")
    with pytest.raises(ProgramError) as caught:
        _ = forks[1]["x"]
    assert "fork 1 of program 'program': variable 'x' was not produced" in str(caught.value)
    assert "EngineError: no answer to <1>" in str(caught.value)
    assert isinstance(caught.value.__cause__, rm.EngineError)
    assert forks[1].error() is caught.value.__cause__


@pytest.mark.parametrize("mode", ["gather_variable", "concate_and_append"])
def test_a_join_stops_the_parent_and_names_the_fork(mode):
    @rm.function
    def program(s):
        s += "root "
        forks = s.fork(3)
        forks += lambda i: rm.gen("early") + f"<{i}>" + rm.gen("x")
        forks.join(mode)
        s += "more" + rm.gen("y")

    state = program.run(backend=fail_on("<1>"))
    with pytest.raises(ProgramError, match=r"'y' was not produced: .*fork 1 of program 'program' failed"):
        _ = state["y"]
    with pytest.raises(ProgramError, match="fork 1 of program 'program' failed: EngineError: no answer"):
        state.text()
    assert isinstance(state.error().__cause__, rm.EngineError)
    if mode == "gather_variable":
        assert state["early"] == ["fine"] * 3
        with pytest.raises(ProgramError, match="variable 'x' was not produced"):
            _ = state["x"]


def test_forks_of_a_failed_parent_say_why():
    @rm.function
    def program(s):
        s += "root" + rm.gen("x")
        forks = s.fork(2)
        forks += rm.gen("y")
        forks.join()
        return forks

    state = program.run(backend=MockBackend(rm.EngineError("boom")))
    for broken in (lambda: state.ret_value[0]["y"], lambda: state["y"], lambda: state.ret_value[1].text()):
        with pytest.raises(ProgramError, match="boom"):
            broken()


def test_an_exception_inside_a_fork_block_is_raised_as_it_is():
    @rm.function
    def program(s):
        with s.fork(2) as forks:
            forks += rm.gen("x")
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        program.run(backend=MockBackend())
