"""``async def`` programs, and plain ones awaited."""

import asyncio
import threading

import pytest

import ramet as rm
from ramet.event_loop import background_loop
from ramet.lang.backends.mock import MockBackend


@rm.function
async def ask(s, question):
    s += question + rm.gen("answer")
    answer = await s.aget("answer")
    s["length"] = len(answer)
    s += "." + rm.gen("more")
    return asyncio.get_running_loop()


@rm.function
def plain(s, question):
    s += question + rm.gen("answer")
    s["length"] = len(s["answer"])
    return threading.current_thread()


def test_run_waits_for_the_code_on_the_background_loop():
    state = ask.run("Why?", backend=MockBackend("because"))
    assert state.ret_value is background_loop()
    assert (state["length"], state.text()) == (7, "Why?because.because")


def test_arun_runs_the_code_on_the_callers_loop_and_waits_for_everything():
    async def main():
        state = await ask.arun("Why?", backend=MockBackend("because"))
        assert state.ret_value is asyncio.get_running_loop()
        assert state["more"] == "because", "everything is there: reading does not block"
        assert await state.atext() == "Why?because.because"
        assert await state.amessages() == []
        assert await state.aerror() is None
        assert (await state.aget_meta_info("answer"))["finish_reason"] == "stop"
        await state.wait()

    asyncio.run(main())


def test_a_plain_program_can_be_awaited():
    async def main():
        state = await plain.arun("Why?", backend=MockBackend("because"))
        assert state.ret_value is not threading.current_thread()
        assert state["length"] == 7

    asyncio.run(main())


def test_many_at_once_without_threads(make_gate):
    gate = make_gate(opens_at=50)

    async def reply(prompt, params):
        await gate.pass_through()
        return "x"

    @rm.function
    async def program(s):
        s += "a" + rm.gen("y")
        return await s.aget("y")

    async def main():
        backend = MockBackend(reply)
        before = threading.active_count()
        runs = [asyncio.ensure_future(program.arun(backend=backend)) for _ in range(50)]
        await asyncio.sleep(0)
        assert threading.active_count() <= before + 1  # at most the background loop is new
        return await asyncio.gather(*runs)

    assert len(asyncio.run(main())) == 50


def test_after_arun_every_read_is_immediate():
    @rm.function
    async def forking(s):
        s += rm.user("x") + rm.gen("y")
        return s.fork(2).__iadd__(rm.gen("z"))

    def read(state):
        fork = state.ret_value[1]
        state.sync()
        return state.text(), len(state.messages()), state.error(), fork["z"], fork.text()

    expected = ("<|user|>x<|end|>mock", 1, None, "mock", "<|user|>x<|end|>mockmock")

    async def main():
        for _ in range(20):
            assert read(await forking.arun(backend=MockBackend())) == expected

    @rm.function
    async def calling(s):
        return read(await forking.arun())

    asyncio.run(main())
    assert calling.run(backend=MockBackend()).ret_value == expected, "on the background loop as well"


def test_a_program_that_exits_raises_that_and_harms_nobody():
    @rm.function
    async def leaving(s):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        leaving.run(backend=MockBackend())
    state = ask.run("Why?", backend=MockBackend(SystemExit(3)), stream=True)
    with pytest.raises(rm.ProgramError, match="SystemExit: 3"):
        state.text()
    assert ask.run("Why?", backend=MockBackend("because"))["length"] == 7


@pytest.mark.parametrize("run", [lambda p, b: p.run(backend=b), lambda p, b: asyncio.run(p.arun(backend=b))])
def test_a_blocking_read_on_the_event_loop_is_refused(gate, gated, run):
    reads = [
        lambda s: s["answer"],
        lambda s: s.text(),
        lambda s: s.messages(),
        lambda s: s.sync(),
        lambda s: s.error(),
        lambda s: next(s.text_iter()),
    ]

    @rm.function
    async def program(s):
        s += "x" + rm.gen("answer")
        for read in reads:
            with pytest.raises(rm.ProgramError, match=r"would block the event loop; use `await s\.\w+"):
                read(s)
        gate.open()
        await s.aget("answer")
        return s["answer"]  # there already

    assert run(program, gated).ret_value == "late"


def test_running_another_program_inside():
    @rm.function
    async def outer(s):
        inner = await ask.arun("Why?")
        s += inner["answer"]

    assert outer.run(backend=MockBackend("because")).text() == "because"


def test_blocking_on_another_async_program_inside_is_refused():
    @rm.function
    async def outer(s):
        ask.run("Why?")

    with pytest.raises(rm.InvalidRequest, match=r"program .ask.: run\(\) would block .* `await ask.arun"):
        outer.run(backend=MockBackend())


def test_forks_in_async_programs():
    @rm.function
    async def program(s):
        s += "root"
        with s.fork(3) as forks:
            forks += rm.gen("x")
        return await s.aget("x")

    assert program.run(backend=MockBackend()).ret_value == ["mock"] * 3


def test_streaming_an_async_program():
    state = ask.run("Why?", backend=MockBackend("be cause"), stream=True)
    assert "".join(state.text_iter()) == "Why?be cause.be cause"
    assert state["length"] == 8

    async def main():
        state = await ask.arun("Why?", backend=MockBackend("be cause"), stream=True)
        pieces = [piece async for piece in state.text_async_iter()]
        assert "".join(pieces) == "Why?be cause.be cause"
        await state.wait()
        assert state.ret_value is asyncio.get_running_loop()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_an_exception_in_the_code_is_raised_by_arun(kind):
    @rm.function
    async def asynchronous(s):
        raise ZeroDivisionError("mine")

    @rm.function
    def synchronous(s):
        raise ZeroDivisionError("mine")

    program = asynchronous if kind == "async" else synchronous
    with pytest.raises(ZeroDivisionError, match="mine"):
        asyncio.run(program.arun(backend=MockBackend()))
    if kind == "async":
        with pytest.raises(ZeroDivisionError, match="mine"):
            program.run(backend=MockBackend())
        with pytest.raises(ZeroDivisionError, match="mine"):
            program.run(backend=MockBackend(), stream=True).sync()


def test_a_failed_generation_is_raised_where_it_is_awaited():
    @rm.function
    async def program(s):
        s += "x" + rm.gen("y")

    async def main():
        state = await program.arun(backend=MockBackend(rm.EngineError("boom")))
        with pytest.raises(rm.ProgramError, match="variable 'y' was not produced: EngineError: boom"):
            await state.aget("y")
        with pytest.raises(rm.UnknownVariable):
            await state.aget("z")
        with pytest.raises(rm.ProgramError):
            await state.atext()

    asyncio.run(main())
