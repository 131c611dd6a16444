"""Cancelled, interrupted or forgotten: nothing keeps running and nobody waits forever."""

import asyncio
import gc
import subprocess
import sys

import pytest

import ramet as rm
from ramet.event_loop import run_sync
from ramet.lang.backends.mock import MockBackend


@rm.function
def waiting(s):
    s += "x" + rm.gen("y") + rm.gen("z")


def all_cancelled(backend, number):
    """Wait until so many requests have been cancelled and none is left."""

    async def wait():
        while backend.num_cancelled < number or backend.in_flight:
            await asyncio.sleep(0.001)

    run_sync(wait())
    assert backend.num_cancelled == number
    return True


def test_a_cancelled_program_aborts_its_requests_and_says_so(gate, gated):
    state = waiting.run(backend=gated)
    gate.await_arrivals(1)
    state.cancel()
    state.cancel()

    assert all_cancelled(gated, 1)
    for name in ("y", "z"):
        with pytest.raises(rm.ProgramError, match="program 'waiting' was cancelled") as caught:
            _ = state[name]
        assert isinstance(caught.value.__cause__, rm.RequestAborted)
    assert isinstance(state.error(), rm.RequestAborted)
    with pytest.raises(rm.ProgramError, match="was cancelled"):
        state += "more"


def test_a_finished_program_can_be_cancelled_and_still_read():
    state = waiting.run(backend=MockBackend())
    state.sync()
    state.cancel()
    assert (state["y"], state["z"]) == ("mock", "mock")


def test_forks_are_cancelled_with_their_root(gate, gated):
    @rm.function
    def program(s):
        s += "root"
        forks = s.fork(4)
        forks += rm.gen("x")
        forks.join()
        return forks

    state = program.run(backend=gated)
    gate.await_arrivals(4)
    state.cancel()
    assert all_cancelled(gated, 4)
    for broken in (lambda: state.ret_value[2]["x"], lambda: state["x"]):
        with pytest.raises(rm.ProgramError, match="was cancelled"):
            broken()


def test_one_fork_can_be_cancelled_with_what_it_forked(gate, gated):
    @rm.function
    def program(s):
        s += "root"
        forks = s.fork(2)
        forks[0] += rm.gen("x")
        inner = forks[1].fork(2)
        inner += rm.gen("x")
        return forks, inner

    state = program.run(backend=gated)
    forks, inner = state.ret_value
    gate.await_arrivals(3)
    forks[1].cancel()
    assert isinstance(inner[0].error(), rm.RequestAborted)
    with pytest.raises(rm.ProgramError, match="fork 1 of program 'program' was cancelled"):
        _ = inner[1]["x"]
    gate.open()
    assert forks[0]["x"] == "late"


def test_dropping_a_state_cancels_it(gate, gated):
    state = waiting.run(backend=gated)
    gate.await_arrivals(1)
    del state
    gc.collect()
    assert all_cancelled(gated, 1)


def test_a_fork_keeps_its_program_alive(gate, gated):
    @rm.function
    def program(s):
        s += "root"
        (fork,) = s.fork()
        fork += rm.gen("x")
        return fork

    fork = program.run(backend=gated).ret_value
    gate.await_arrivals(1)
    gc.collect()
    gate.open()
    assert fork["x"] == "late"


def test_a_state_that_is_read_by_a_temporary_is_not_dropped():
    assert waiting.run(backend=MockBackend())["z"] == "mock"
    assert "".join(waiting.run(backend=MockBackend(), stream=True).text_iter()) == "xmockmock"


def test_an_exception_in_the_code_aborts_what_it_started(gate, gated):
    @rm.function
    def program(s):
        s += "x" + rm.gen("y")
        gate.await_arrivals(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program.run(backend=gated)
    assert all_cancelled(gated, 1)


def test_a_cancelled_stream_ends_its_iterators(gate):
    class Gated(MockBackend):
        async def stream(self, prompt, params):
            async for chunk in MockBackend.stream(self, prompt, params):
                yield chunk
                await gate.pass_through()

    backend = Gated("one two")
    state = waiting.run(backend=backend, stream=True)
    pieces = state.text_iter()
    assert [next(pieces), next(pieces)] == ["x", "one"]
    state.cancel()
    with pytest.raises(rm.ProgramError, match="was cancelled"):
        list(pieces)


def test_an_async_program_cancelled_before_it_begins_has_ended():
    @rm.function
    async def program(s):
        s += "x" + rm.gen("y")
        await s.aget("y")

    async def run_and_cancel():  # on the background loop, so the code cannot have begun
        state = program.run(backend=MockBackend(), stream=True)
        state.cancel()
        return state

    state = run_sync(run_and_cancel())
    assert isinstance(state.error(), rm.RequestAborted)


def test_cancelling_arun_cancels_the_program(gate, gated):
    @rm.function
    async def asynchronous(s):
        s += "x" + rm.gen("y")
        await s.aget("y")

    async def main(program):
        task = asyncio.ensure_future(program.arun(backend=gated))
        await asyncio.to_thread(gate.await_arrivals, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main(asynchronous))
    assert all_cancelled(gated, 1)
    asyncio.run(main(waiting))
    assert all_cancelled(gated, 2)


INTERRUPTED = """
import asyncio, os, signal
import ramet as rm
from ramet.event_loop import run_sync
from ramet.lang.backends.mock import MockBackend

async def interrupt_the_main_thread(prompt, params):
    while True:  # CPython overlooks a signal that comes when a thread is just about to wait
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(10)

backend = MockBackend(interrupt_the_main_thread)

@rm.function
def plain(s):
    s += "x" + rm.gen("y")
    return s["y"]

@rm.function
async def asynchronous(s):
    s += "x" + rm.gen("y")
    return await s.aget("y")

async def idle():
    while backend.in_flight:
        await asyncio.sleep(0.001)

for run in (
    lambda: plain.run(backend=backend),
    lambda: asynchronous.run(backend=backend),
    lambda: plain.run_batch([{}] * 3, backend=backend, num_threads=1),
):
    try:
        run()
    except KeyboardInterrupt:
        run_sync(idle())
        print("interrupted", backend.num_cancelled)
"""


def test_ctrl_c_leaves_no_request_running():
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["interrupted 1", "interrupted 2", "interrupted 3"]


def test_leaving_the_interpreter_with_a_program_running_is_quiet():
    code = """
import asyncio
import ramet as rm
from ramet.lang.backends.mock import MockBackend

async def forever(prompt, params):
    await asyncio.Event().wait()

@rm.function
def program(s):
    s += "x"
    forks = s.fork(3)
    forks += rm.gen("y")

state = program.run(backend=MockBackend(forever))
streamed = program.run(backend=MockBackend(forever), stream=True)
print(next(streamed.text_iter()))
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("x", "")
