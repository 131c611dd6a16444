"""The calls in flight: how many there may be, how long each may take, and how each can end early.

A *call* is one HTTP request that asks the engine. It ends early if its client goes away, if it takes too
long, or if somebody aborts it by its id. Ending it cancels its work, which aborts its requests in the
engine. Clocks are monotonic.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Receive

from ramet.errors import InvalidRequest, RequestAborted, RequestTimeout
from ramet.types import RequestOptions

T = TypeVar("T")


class Call:
    """One call. Use as ``with calls.open(...) as call: result = await call.run(work)``.

    Attributes:
        request_id: given by the client, or drawn.
        options: who asks, and how soon it is wanted.
    """

    def __init__(self, request_id: str, options: RequestOptions, seconds: float) -> None:
        self.request_id = request_id
        self.options = options
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._seconds = seconds
        self._scope: asyncio.Timeout | None = None
        self._aborted = False

    def abort(self) -> None:
        """End the call now: whoever awaits its work gets `RequestAborted`."""
        self._aborted = True
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(0)

    async def run(self, work: Awaitable[T]) -> T:
        """Await a part of the call's work.

        Raises:
            RequestAborted: the call was aborted.
            RequestTimeout: the call has taken too long.
        """
        scope = asyncio.timeout_at(0 if self._aborted else self._deadline)
        try:
            async with scope:
                self._scope = scope
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            if self._aborted:
                raise RequestAborted("the request was aborted") from None
            raise RequestTimeout(f"the request took more than {self._seconds:g} s") from None
        finally:
            self._scope = None


class Calls:
    """All calls in flight.

    Args:
        seconds: the longest a call may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._calls: dict[tuple[str, str], Call] = {}  # by client and id: nobody can take another's id
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def open(self, options: RequestOptions, request_id: str | None = None) -> Iterator[Call]:
        """A call that is in flight as long as the context lasts.

        Raises:
            InvalidRequest: another call of this client is in flight and has this id.
        """
        request_id = request_id or uuid.uuid4().hex
        key = options.client_id, request_id
        if key in self._calls:
            raise InvalidRequest(f"request id {request_id!r} is in use")
        call = self._calls[key] = Call(request_id, options, self._seconds)
        self._idle.clear()
        try:
            yield call
        finally:
            del self._calls[key]
            if not self._calls:
                self._idle.set()

    def abort(self, request_id: str, client_id: str = "") -> bool:
        """End a call of a client now; false if it has none of this id."""
        call = self._calls.get((client_id, request_id))
        if call is not None:
            call.abort()
        return call is not None

    def of(self, client_id: str) -> list[Call]:
        """The calls of a client."""
        return [call for call in self._calls.values() if call.options.client_id == client_id]

    def abort_all(self) -> int:
        """End all calls now; says how many."""
        for call in list(self._calls.values()):
            call.abort()
        return len(self._calls)

    async def wait_idle(self) -> None:
        """Wait until no call is in flight."""
        await self._idle.wait()


async def unless_disconnected(request: Request, call: Call, work: Awaitable[T]) -> T:
    """`Call.run`, given up if the client goes away meanwhile.

    Raises:
        RequestAborted: the client has gone, or the call was aborted.
        RequestTimeout: the call has taken too long.
    """
    watcher = asyncio.create_task(abort_on_disconnect(request.receive, call))
    try:
        return await call.run(work)
    finally:
        watcher.cancel()


async def abort_on_disconnect(receive: Receive, call: Call) -> None:
    """Wait for the client to go, and abort the call then."""
    while (await receive())["type"] != "http.disconnect":
        pass
    call.abort()
