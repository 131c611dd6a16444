"""Server-sent events: a stream of JSON texts as an HTTP response.

The first event is awaited before the response begins, so that a request that is refused gets a status of its
own. A reader that does not read for a while is given up; what waits for it meanwhile is bounded by the
request's own ``max_tokens``, because chunks that wait become one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ramet.errors import RametError
from ramet.server.calls import Call, Calls, abort_on_disconnect, unless_disconnected
from ramet.server.errors import describe
from ramet.types import RequestOptions

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"

Events = AsyncGenerator[bytes, None]


async def event_stream(
    request: Request,
    calls: Calls,
    options: RequestOptions,
    request_id: str | None,
    make_events: Callable[[Call], Events],
    *,
    stall_seconds: float,
) -> Response:
    """A response that streams events, each a JSON text, and ``[DONE]`` at the end.

    An error after the first event becomes an event with an ``error`` object.

    Raises:
        RametError: what happened before the first event.
    """
    with ExitStack() as stack:
        call = stack.enter_context(calls.open(options, request_id))
        events = make_events(call)
        try:
            first = await unless_disconnected(request, call, anext(events, None))
        except BaseException:
            await events.aclose()
            raise
        return EventStream(stack.pop_all(), call, first, events, stall_seconds)


class EventStream(Response):
    """Writes the events of a call; closes the call when it ends, however it does."""

    media_type = "text/event-stream"

    def __init__(
        self, stack: ExitStack, call: Call, first: bytes | None, events: Events, stall_seconds: float
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._stack = stack
        self._call = call
        self._first = first
        self._events = events
        self._patience = _Patience(stall_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            async with aclosing(self._events):
                watcher = asyncio.create_task(abort_on_disconnect(receive, self._call))
                try:
                    async with self._patience.of(send) as patient_send:
                        await self._respond(patient_send)
                except TimeoutError:
                    logger.info("gave up %s: its client reads nothing", self._call.request_id)
                finally:
                    watcher.cancel()

    async def _respond(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await self._call.run(self._write(send))
        except RametError as error:
            _, body = describe(error)
            await send(_message(json.dumps(body).encode()))
        await send({"type": "http.response.body", "body": DONE, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            if self._first is not None:
                await send(_message(self._first))
            async for event in events:
                await send(_message(event))


class _Patience:
    """How long one send may take. A timer per send would cost as much as sending does."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def of(self, send: Send) -> AsyncGenerator[Send, None]:
        """A send that is to be used inside this context.

        Raises:
            TimeoutError: out of the context, when one send has taken too long.
        """

        async def patient_send(message: Message) -> None:
            self._waiting_since = self._loop.time()
            await send(message)
            self._waiting_since = None

        async with asyncio.timeout(None) as scope:
            self._look(scope)
            try:
                yield patient_send
            finally:
                assert self._timer is not None
                self._timer.cancel()

    def _look(self, scope: asyncio.Timeout) -> None:
        """Whether it has waited for too long; else, look again when it may have."""
        now = self._loop.time()
        end = self._seconds + (now if self._waiting_since is None else self._waiting_since)
        if now < end:
            self._timer = self._loop.call_at(end, self._look, scope)
        else:
            scope.reschedule(now)


def _message(event: bytes) -> Message:
    return {"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True}
