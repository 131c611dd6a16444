"""How an engine ends: shut down twice, dying, left by a closed event loop, in a forked process."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from parrot import byte_tokenizer, local_backend, parrot

from ramet.config import SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.errors import EngineDead, RequestAborted
from ramet.event_loop import run_sync
from ramet.facade import Facade
from ramet.runner.fake import FakeRunner
from ramet.sampling_params import SamplingParams
from ramet.types import Prompt

FORK = """
import os, signal, warnings
from parrot import parrot
from ramet.errors import EngineDead
from ramet.facade import Facade

backend = parrot("hi")
engine = Facade(backend)
engine.generate("say>")
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        engine.generate("say>")
    except EngineDead as error:
        assert "forked" in str(error)
        raise SystemExit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert engine.generate("say>").text == "hi"
backend.shutdown()
"""


class MortalCore(EngineCore):
    """Dies when it is asked for its counters, once it is told to."""

    def __init__(self):
        super().__init__(FakeRunner(vocab_size=257), SchedulerConfig())
        self.asked, self.may_die = threading.Event(), threading.Event()

    def stats(self):
        self.asked.set()
        self.may_die.wait()
        raise RuntimeError("a defect")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_is_told_that_it_has_no_engine():
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", FORK], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_shutdown_waits_until_the_core_has_stopped():
    in_step, go_on = threading.Event(), threading.Event()

    def block(context):
        in_step.set()
        go_on.wait()

    def work():
        with pytest.raises(RequestAborted):
            Facade(backend).generate("say>")

    backend = parrot("hi", on_step=block)
    request = threading.Thread(target=work)
    request.start()
    in_step.wait()
    calls = [threading.Thread(target=backend.shutdown) for _ in range(2)]
    for call in calls:
        call.start()
    calls[1].join(0.1)
    assert all(call.is_alive() for call in calls)
    go_on.set()
    for thread in (*calls, request):
        thread.join()


def test_a_stream_that_is_closed_takes_part_in_no_further_step():
    may_step, in_step = threading.Semaphore(0), threading.Semaphore(0)

    def wait_for_leave(context):
        in_step.release()
        may_step.acquire()

    backend = parrot("x" * 1000, on_step=wait_for_leave)

    async def leave():
        stream = backend.stream(Prompt.of("say>"), SamplingParams(max_tokens=1000))
        may_step.release(3)
        num_tokens = 0
        while num_tokens < 3:  # what comes at once comes in one chunk
            num_tokens += len((await anext(stream)).token_ids)
        for _ in range(4):
            in_step.acquire()  # the core is in its fourth step now
        await stream.aclose()
        may_step.release(1000)
        return await backend.stats()

    stats = run_sync(leave())
    assert (stats.running, stats.steps) == (0, 4)
    assert run_sync(backend.flush_cache())
    backend.shutdown()


def test_a_call_that_the_garbage_collector_ends_does_not_block_the_thread_it_collects_on():
    backend = parrot("x" * 4000)
    loop = asyncio.new_event_loop()

    async def ask_and_leave():
        call = asyncio.ensure_future(backend.generate(Prompt.of("say>"), SamplingParams(max_tokens=4000)))
        await asyncio.sleep(0)
        return weakref.ref(call.get_coro())

    call = loop.run_until_complete(ask_and_leave())
    loop.close()

    while backend._receivers:  # until the core finds the loop closed, it keeps the call alive
        time.sleep(0.001)

    def collect():
        with backend._lock:  # where the core's thread may stand when it collects
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    while call() is not None:  # collecting does nothing while another thread collects
        gc.collect()
    while run_sync(backend.stats()).running:
        pass
    backend.shutdown()


def test_the_death_of_the_core_reaches_all_who_wait_even_if_an_event_loop_is_gone():
    core = MortalCore()
    backend = local_backend(byte_tokenizer(), core)
    gone = asyncio.new_event_loop()

    async def ask_and_leave():
        asking = asyncio.ensure_future(backend.stats())
        await asyncio.sleep(0)
        return asking

    async def ask():
        asking = [asyncio.ensure_future(backend.stats()) for _ in range(2)]
        await asyncio.sleep(0)
        core.may_die.set()
        return await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 20)

    left_alone = gone.run_until_complete(ask_and_leave())
    gone.close()
    core.asked.wait()
    errors = run_sync(ask())
    assert [type(error) for error in errors] == [EngineDead, EngineDead]
    assert all("the engine core failed: a defect" in str(error) for error in errors)
    assert errors[0] is not errors[1]
    assert not left_alone.done()
    backend.shutdown()
