"""A core in a process of its own: the same answers, and what happens when either process goes away."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ramet.config import CacheConfig, EngineConfig, ModelOptions, SchedulerConfig
from ramet.constraints import JsonSchema, Regex
from ramet.engine.build import build_backend
from ramet.engine.core_process import CoreProcess
from ramet.engine.local import LocalBackend
from ramet.errors import CorruptWeights, EngineDead, InvalidConstraint, InvalidRequest, RequestAborted
from ramet.event_loop import run_sync
from ramet.facade import Facade
from ramet.kernels import why_unavailable
from ramet.sampling_params import SamplingParams
from ramet.store.resolve import resolve_model
from ramet.tokenizer.load import load_tokenizer
from ramet.types import Prompt

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes in /proc")

CONFIG = EngineConfig(
    model=ModelOptions(num_threads=1),
    cache=CacheConfig(max_kv_tokens=4096),
    scheduler=SchedulerConfig(max_waiting_requests=400),
)
LONG = SamplingParams(max_tokens=3000, ignore_eos=True, temperature=0.0)
PROMPT = Prompt.of("Once upon a time")

PARENT = """
import sys, threading
from pathlib import Path
from ramet.config import CacheConfig, EngineConfig, ModelOptions
from ramet.engine.core_process import CoreProcess
from ramet.store.resolve import resolve_model

config = EngineConfig(model=ModelOptions(num_threads=1), cache=CacheConfig(max_kv_tokens=4096))
process = CoreProcess(config, resolve_model(None))
if sys.argv[1] == "loaded":
    process.wait_until_ready()
print(process.pid, flush=True)
threading.Event().wait()
"""


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether there is no such process, not even as a zombie."""
    return not Path("/proc", str(pid)).exists()


def has_ended(pid: int) -> bool:
    """Whether a process that is not our child has ended; who reaps it is not our business."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def traces() -> set[object]:
    """What a process may leave behind: descriptors, directories and threads."""
    gc.collect()
    opened: set[object] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            opened.add((descriptor.name, descriptor.readlink()))
    folders = Path(tempfile.gettempdir()).glob("ramet-core-*")
    return opened | set(folders) | set(threading.enumerate())


async def read_to_the_end(stream):
    async for _ in stream:
        pass


class Served:
    """A core in a process, and the backend over it."""

    def __init__(self, config: EngineConfig = CONFIG) -> None:
        path = resolve_model(None)
        self.process = CoreProcess(config, path)
        self.backend = LocalBackend(load_tokenizer(path), self.process, self.process.wait_until_ready())
        self.engine = Facade(self.backend)

    def stats(self):
        return run_sync(self.backend.stats())


@pytest.fixture
def served() -> Iterator[Served]:
    run_sync(asyncio.sleep(0))  # the event loop's own thread and descriptors are nobody's leak
    before = traces()
    served = Served()
    yield served
    served.backend.shutdown()
    assert is_gone(served.process.pid)
    assert not traces() - before


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    served = Served()
    yield served
    served.backend.shutdown()


# ----------------------------------------------------------------------------------------- the same


@pytest.mark.model
def test_it_answers_as_a_core_in_a_thread_does(shared):
    asked = [
        {"temperature": 0.0, "max_tokens": 12},
        {"seed": 3, "n": 3, "logprobs": 2, "max_tokens": 8},
        {"seed": 4, "stop": [".", ","], "max_tokens": 30, "logit_bias": {10: 3.0}},
        {"seed": 5, "constraint": Regex("(yes|no), [a-z]{3,9}")},
        {"seed": 6, "constraint": JsonSchema({"type": "array", "items": {"type": "boolean"}, "maxItems": 3})},
    ]
    backend = build_backend(CONFIG)
    here = Facade(backend)
    there = shared.engine
    for sampling in asked:
        ours, theirs = (engine.generate("Tell me:", **sampling) for engine in (here, there))
        assert _content(theirs) == _content(ours)
    assert there.score("The sky is", [" blue", " green"]) == here.score("The sky is", [" blue", " green"])
    assert shared.backend.card == backend.card
    backend.shutdown()


def _content(completions):
    """Without the counts of cached tokens, which depend on what was asked before."""
    completions = completions if isinstance(completions, list) else [completions]
    return [(c.text, c.token_ids, c.finish_reason, c.stop_reason, c.logprobs) for c in completions]


@pytest.mark.model
@pytest.mark.skipif(why_unavailable() is not None, reason="the torch reference computes")
def test_native_kernels_need_no_torch_there_either(shared):
    assert "libtorch" not in Path("/proc", str(shared.process.pid), "maps").read_text()


@pytest.mark.model
def test_errors_arrive_as_what_they_are(shared):
    with pytest.raises(InvalidConstraint, match="not closed"):
        shared.engine.generate("a", constraint=Regex("a(b"))
    with pytest.raises(InvalidRequest, match="outside the vocabulary"):
        shared.engine.generate([10**6])
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        shared.engine.generate([2**70])
    with pytest.raises(InvalidRequest, match="cannot be sent"):
        shared.engine.generate("a", stop="\ud800")
    assert not shared.backend._receivers


@pytest.mark.model
def test_an_abandoned_stream_frees_its_slots(shared):
    async def leave():
        stream = shared.backend.stream(PROMPT, LONG)
        await anext(stream)
        running = (await shared.backend.stats()).running
        await stream.aclose()
        return running, (await shared.backend.stats()).running  # the messages of a caller keep their order

    assert run_sync(leave()) == (1, 0)
    assert run_sync(shared.backend.flush_cache())


@pytest.mark.model
def test_signals_for_everybody_do_not_end_it_before_its_parent_does(shared):
    for name in (signal.SIGINT, signal.SIGTERM):
        os.kill(shared.process.pid, name)
    assert os.getpgid(shared.process.pid) != os.getpgid(0)
    assert shared.engine.generate("Hello", max_tokens=2).text
    assert shared.backend.is_alive


@pytest.mark.model
def test_no_message_is_lost_however_many_wait_to_be_read(shared):
    async def ask():
        os.kill(shared.process.pid, signal.SIGSTOP)
        calls = [asyncio.ensure_future(shared.backend.stats()) for _ in range(5000)]
        await asyncio.sleep(0)
        os.kill(shared.process.pid, signal.SIGCONT)
        return await asyncio.gather(*calls)

    assert len(run_sync(ask())) == 5000


@pytest.mark.model
def test_mixed_requests_leave_nothing_behind(shared):
    async def ask(index):
        kind, prompt = index % 6, Prompt.of(f"Item {index % 7}:")
        if kind == 0:
            await shared.backend.generate(prompt, SamplingParams(max_tokens=3, seed=index))
        elif kind == 1:
            params = SamplingParams(max_tokens=20, constraint=Regex("(a|b){1,3}"), seed=index)
            await shared.backend.generate(prompt, params)
        elif kind == 2:
            await shared.backend.score(prompt, ["one", "two"])
        elif kind == 3:
            with pytest.raises(InvalidConstraint):
                await shared.backend.generate(prompt, SamplingParams(constraint=Regex("a(b")))
        elif kind == 4:
            async for _ in shared.backend.stream(prompt, LONG):
                break  # the rest of it is closed by whoever collects it
        else:
            call = asyncio.ensure_future(shared.backend.generate(prompt, LONG))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async def crowd():
        tasks = len(asyncio.all_tasks())
        for begin in range(0, 300, 60):
            await asyncio.gather(*(ask(index) for index in range(begin, begin + 60)))
        gc.collect()
        while (stats := await shared.backend.stats()).running or stats.waiting:
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == tasks

    run_sync(crowd())
    before = traces()
    run_sync(crowd())
    assert run_sync(shared.backend.flush_cache())
    assert not shared.backend._receivers
    assert not shared.backend._replies
    assert not traces() - before


# ---------------------------------------------------------------------------------------- its death


@pytest.mark.model
def test_when_it_is_killed_all_who_wait_are_told_how_it_ended(served):
    deaths: list[EngineDead] = []
    served.backend.add_death_callback(deaths.append)

    async def ask_and_kill():
        waiting = [asyncio.ensure_future(served.backend.generate(PROMPT, LONG)) for _ in range(3)]
        stream = served.backend.stream(PROMPT, LONG)
        await anext(stream)
        os.kill(served.process.pid, signal.SIGKILL)
        with pytest.raises(EngineDead, match="ended by signal SIGKILL"):
            await read_to_the_end(stream)
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)

    errors = run_sync(ask_and_kill())
    assert [type(error) for error in errors] == [EngineDead] * 3
    assert len({id(error) for error in errors}) == 3
    assert not served.backend.is_alive
    wait_until(lambda: deaths)
    assert "SIGKILL" in str(deaths[0])
    served.backend.add_death_callback(deaths.append)
    assert len(deaths) == 2  # late, but told
    with pytest.raises(EngineDead, match="SIGKILL"):
        served.engine.generate("Hello")
    with pytest.raises(EngineDead):
        served.stats()
    assert is_gone(served.process.pid)


@pytest.mark.model
def test_a_core_that_fails_says_why_and_ends(served):
    # A message that no backend sends, as after a defect: the core must not go on without hearing
    served.process._messages.send(b"no message at all")
    wait_until(lambda: not served.backend.is_alive)
    with pytest.raises(EngineDead, match="the engine core failed: "):
        served.engine.generate("Hello")
    wait_until(lambda: is_gone(served.process.pid))


@pytest.mark.model
def test_a_shutdown_ends_what_runs_and_leaves_nothing(served):
    deaths: list[EngineDead] = []
    served.backend.add_death_callback(deaths.append)
    started = threading.Event()
    errors = []

    def work():
        try:
            for _ in served.engine.stream("Once", max_tokens=3000, ignore_eos=True):
                started.set()
        except RequestAborted as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    served.backend.shutdown()
    thread.join()
    assert [str(error) for error in errors] == ["the engine is shutting down"]
    assert is_gone(served.process.pid)
    assert not deaths


@pytest.mark.model
def test_a_core_that_does_not_stop_is_killed(served, monkeypatch):
    monkeypatch.setattr("ramet.engine.core_process.SHUTDOWN_SECONDS", 0.05)
    os.kill(served.process.pid, signal.SIGSTOP)
    served.backend.shutdown()
    assert is_gone(served.process.pid)


@pytest.mark.model
@pytest.mark.parametrize("when", ["loading", "loaded"])
def test_it_goes_when_its_parent_is_killed(when):
    before = traces()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, when], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not has_ended(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: has_ended(pid))
    assert not traces() - before


# ------------------------------------------------------------------------------------------ loading


def test_a_model_that_cannot_be_loaded_raises_what_it_would_here(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(5))
    before = traces()
    process = CoreProcess(CONFIG, path)
    with pytest.raises(CorruptWeights) as caught:
        process.wait_until_ready()
    assert "broken.gguf" in str(caught.value)
    assert is_gone(process.pid)
    assert not traces() - before


@pytest.mark.model
def test_a_process_that_ends_while_it_loads_is_noticed():
    before = traces()
    process = CoreProcess(CONFIG, resolve_model(None))
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EngineDead, match="ended by signal SIGKILL while it loaded the model"):
        process.wait_until_ready()
    assert not traces() - before


@pytest.mark.model
def test_a_start_that_is_given_up_leaves_nothing():
    before = traces()
    process = CoreProcess(CONFIG, resolve_model(None))
    process.close()
    process.close()
    assert is_gone(process.pid)
    assert not traces() - before
