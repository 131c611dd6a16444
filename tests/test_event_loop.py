"""The background loop: from threads, from other loops, when interrupted, after a fork, at exit."""

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from ramet.errors import InvalidRequest, RequestAborted
from ramet.event_loop import (
    background_loop,
    gather,
    iterate,
    on_background_thread,
    on_loop,
    relay,
    run_sync,
    settled,
    shared_future,
)


async def where():
    return asyncio.get_running_loop()


def test_a_coroutine_runs_on_the_background_loop():
    assert run_sync(where()) is background_loop()
    assert not on_background_thread()


def test_all_threads_share_one_loop():
    loops = []
    threads = [threading.Thread(target=lambda: loops.append(background_loop())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, loops))) == 1


def test_an_error_comes_through():
    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        run_sync(fail())


def test_blocking_on_the_loops_own_thread_is_refused():
    async def nested():
        return run_sync(where())

    with pytest.raises(InvalidRequest, match="would wait for itself"):
        run_sync(nested())


def test_a_cancelled_coroutine_is_a_request_aborted():
    async def cancelled():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    with pytest.raises(RequestAborted):
        run_sync(cancelled())


def test_an_interrupt_cancels_and_waits_for_the_end():
    code = """
import asyncio, os, signal
from ramet.event_loop import run_sync
ended = []
async def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        ended.append(True)
try:
    run_sync(work())
except KeyboardInterrupt:
    print("interrupted", ended)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "interrupted [True]", done.stderr


def test_a_forked_child_starts_its_own_loop():
    code = """
import os
from ramet.event_loop import background_loop, run_sync
async def one(): return 1
assert run_sync(one()) == 1
mine = background_loop()
pid = os.fork()
if pid == 0:
    ok = background_loop() is not mine and run_sync(one()) == 1
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert run_sync(one()) == 1 and background_loop() is mine
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr


def test_work_still_running_at_exit_is_cancelled_quietly():
    code = """
import asyncio, threading
from ramet.event_loop import iterate
async def forever():
    try:
        yield 1
        await asyncio.Event().wait()
    finally:
        print("closed")
numbers = iterate(forever())
print(next(numbers))
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["1", "closed"], "")


# ---------------------------------------------------------------------------------------- iterators


class Numbers:
    """Counts, and remembers where it ran and whether it was closed."""

    def __init__(self, limit):
        self.limit = limit
        self.loops = set()
        self.closed = threading.Event()

    async def count(self):
        try:
            for number in range(self.limit):
                self.loops.add(asyncio.get_running_loop())
                yield number
        finally:
            self.closed.set()


def test_iterate_makes_a_plain_iterator():
    numbers = Numbers(4)
    assert list(iterate(numbers.count())) == [0, 1, 2, 3]
    assert numbers.loops == {background_loop()}
    assert numbers.closed.is_set()


def test_closing_the_plain_iterator_closes_the_other():
    numbers = Numbers(1000)
    iterator = iterate(numbers.count())
    assert next(iterator) == 0
    iterator.close()
    assert numbers.closed.is_set()


def test_dropping_the_iterator_on_the_loops_thread_closes_it():
    numbers = Numbers(1000)
    held = [iterate(numbers.count())]
    assert next(held[0]) == 0

    async def drop():
        held.clear()
        gc.collect()

    run_sync(drop())
    assert numbers.closed.wait(10)


def test_relay_brings_items_to_another_loop():
    numbers = Numbers(3)

    async def consume():
        return [number async for number in relay(numbers.count())]

    assert asyncio.run(consume()) == [0, 1, 2]
    assert numbers.loops == {background_loop()}


# -------------------------------------------------------------------------------------- other loops


def test_on_loop_from_another_loop_and_from_the_loop_itself():
    async def outer():
        return await on_loop(where())

    assert asyncio.run(outer()) is background_loop()
    assert run_sync(outer()) is background_loop()


def test_cancelling_on_loop_cancels_the_work_and_waits_for_it():
    started, ended = threading.Event(), threading.Event()

    async def work():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    async def outer():
        task = asyncio.ensure_future(on_loop(work()))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(outer())


def test_gather_starts_everything_in_one_turn():
    order = []

    async def note(index):
        order.append(("began", index))
        await asyncio.sleep(0)
        order.append(("went on", index))
        return index

    assert run_sync(gather([note(index) for index in range(64)])) == list(range(64))
    assert order[:64] == [("began", index) for index in range(64)]


def test_gather_cancels_the_others_and_raises_the_first_error():
    cancelled = []

    async def wait(index):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(index)
            raise

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_sync(gather([wait(0), fail(), wait(2)]))
    assert cancelled == [0, 2]


def test_waiting_for_a_shared_future_can_be_given_up():
    future = shared_future()

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(settled(future), 0.001)

    asyncio.run(give_up())
    future.set_exception(KeyError("x"))  # its loop is closed: nobody may mind
    assert isinstance(run_sync(settled(future)), KeyError)
