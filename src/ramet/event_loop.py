"""The one background event loop on which backends are called.

Lives here: the loop (a daemon thread, started when first needed) and the ways onto it from a plain
thread (`run_sync`, `iterate`) and from another event loop (`on_loop`, `relay`).
Invariant: a caller that is interrupted or cancelled leaves nothing running: the work is cancelled and
has ended before the caller goes on. It must not know what the work is.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ramet.errors import InvalidRequest, RequestAborted

T = TypeVar("T")

_EXIT_PATIENCE = 2.0  # seconds the interpreter waits at exit for cancelled work to clean up

_start_lock = threading.RLock()  # re-entrant: the garbage collector may call us while we hold it
if hasattr(os, "register_at_fork"):  # a child must not inherit the lock held by a thread it lacks
    os.register_at_fork(
        before=_start_lock.acquire, after_in_parent=_start_lock.release, after_in_child=_start_lock.release
    )


@dataclass(frozen=True, slots=True)
class _Background:
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread


@functools.cache
def _start_background(pid: int) -> _Background:
    """Keyed by process: a forked child starts its own and leaves its parent's alone."""
    started: Future[asyncio.AbstractEventLoop] = Future()

    def serve() -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.call_soon(started.set_result, loop)
            serving = True
            while serving:
                try:
                    loop.run_forever()
                    serving = False
                except (SystemExit, KeyboardInterrupt):
                    # NOTE: asyncio throws these out of the loop. They were raised by somebody's work, whose
                    # task hands them to the caller; the loop belongs to everybody and goes on.
                    pass

    thread = threading.Thread(target=serve, name="ramet-loop", daemon=True)
    thread.start()
    loop = started.result()

    def stop_at_exit() -> None:
        if os.getpid() == pid and not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_EXIT_PATIENCE)

    atexit.register(stop_at_exit)
    return _Background(loop, thread)


def _background() -> _Background:
    with _start_lock:
        return _start_background(os.getpid())


def background_loop() -> asyncio.AbstractEventLoop:
    """The background loop, started if it is not running yet."""
    return _background().loop


def on_background_thread() -> bool:
    """Whether the caller runs on the background loop's own thread, where blocking would deadlock."""
    return threading.current_thread() is _background().thread


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for its result.

    If the wait is interrupted (KeyboardInterrupt), the coroutine is cancelled and has ended when the
    interrupt goes on.

    Raises:
        InvalidRequest: called on the background loop's own thread.
        RequestAborted: the coroutine was cancelled, or the interpreter is exiting.
    """
    if on_background_thread():
        coroutine.close()
        raise InvalidRequest(
            "a blocking call was made on Ramet's event loop, where it would wait for itself; "
            "await the asynchronous method instead"
        )
    call = _Call(coroutine)
    try:  # an interrupt may come at any time from here on
        call.start()
        return call.outcome.result()
    finally:
        if not call.outcome.done():
            call.cancel()
            call.outcome.exception()  # waits


async def on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs on the background loop, from whatever loop the caller runs on."""
    if on_background_thread():
        return await coroutine
    call = _Call(coroutine)
    call.start()
    waiter = asyncio.wrap_future(call.outcome)
    waiter.add_done_callback(_mark_seen)
    try:
        return await asyncio.shield(waiter)
    finally:
        if not waiter.done():  # this task was cancelled
            call.cancel()
            await asyncio.wait([waiter])


def _mark_seen(future: asyncio.Future[Any]) -> None:
    """An exception that nobody waits for any more is not to be reported as lost."""
    if not future.cancelled():
        future.exception()


class _Call(Generic[T]):
    """A coroutine on the background loop, as its caller elsewhere sees it."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.outcome: Future[T] = Future()
        self._coroutine = coroutine
        self._loop = background_loop()
        self._task: asyncio.Task[T] | None = None  # a loop holds its tasks weakly

    def start(self) -> None:
        if self._loop.is_closed():
            self._give_up("Ramet's event loop has stopped: the interpreter is exiting")
        else:
            self._loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        if not self.outcome.done():
            self._task = self._loop.create_task(self._coroutine)
            self._task.add_done_callback(self._settle)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self.outcome.done():  # it has not even started
            self._give_up("the call was cancelled before it began")

    def _give_up(self, reason: str) -> None:
        self._coroutine.close()
        self.outcome.set_exception(RequestAborted(reason))

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(RequestAborted("the call was cancelled before it finished"))
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


def iterate(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """An asynchronous generator that runs on the background loop, as a plain one.

    Closing (or dropping) this generator closes that one.
    """
    try:
        while True:
            found = run_sync(_next(items))
            if not found:
                return
            yield found[0]
    finally:
        if on_background_thread():  # the garbage collector may close us on any thread
            asyncio.run_coroutine_threadsafe(_close(items), background_loop())
        elif not background_loop().is_closed():
            run_sync(_close(items))


async def relay(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """An asynchronous generator that runs on the background loop, for a consumer on any loop."""
    try:
        while found := await on_loop(_next(items)):
            yield found[0]
    finally:
        await on_loop(_close(items))


async def _next(items: AsyncGenerator[T, None]) -> tuple[T] | tuple[()]:
    async for item in items:
        return (item,)
    return ()


async def _close(items: AsyncGenerator[T, None]) -> None:
    await items.aclose()


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T], None]:
    """Close an iterator on the way out, if it is one that can be closed."""
    try:
        yield items
    finally:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            await aclose()


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently, all started in the same turn of the loop; their results in order.

    If one fails, the others are cancelled and have ended when its error is raised.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.gather(*tasks, return_exceptions=True)


def shared_future() -> Future[Any]:
    """A future that several threads and loops may wait for, and that none of them can cancel."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


async def settled(future: Future[T]) -> BaseException | None:
    """Wait, on any loop, until a `shared_future` is done; its exception, if it has one."""
    if not future.done():
        waiter = asyncio.wrap_future(future)
        waiter.add_done_callback(_mark_seen)
        try:
            await asyncio.wait([waiter])
        finally:
            waiter.cancel()  # if it is not done: a loop that is closed by then need not hear of it
    return future.exception()
