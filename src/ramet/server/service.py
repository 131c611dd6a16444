"""What the routes share: the engine, the calls in flight, the limits, and the end of it all."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ramet.config import ServerConfig
from ramet.errors import ModelNotFound
from ramet.server.calls import Call, Calls, unless_disconnected
from ramet.server.gate import Gate
from ramet.server.metrics import Metrics
from ramet.server.served import ServedEngine
from ramet.server.streaming import Events, event_stream
from ramet.types import RequestOptions

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Service:
    """One per application.

    Attributes:
        engine: where requests go. Its calls are measured.
        model_name: what clients call the model.
        calls: what is in flight.
    """

    def __init__(self, engine: ServedEngine, config: ServerConfig, gate: Gate, metrics: Metrics) -> None:
        self.engine = metrics.measured(engine)
        self.config = config
        self.gate = gate
        self.metrics = metrics
        self.calls = Calls(config.request_seconds)
        self.model_name = config.served_model_name or engine.card.name

    def check_model(self, name: str | None) -> None:
        """
        Raises:
            ModelNotFound: a client asks for a model that is not served.
        """
        if name and name not in (self.model_name, self.engine.card.name, "default"):
            raise ModelNotFound(f"the model {name!r} is not served here; this is {self.model_name!r}")

    def check_admin(self, request: Request, action: str) -> None:
        """
        Raises:
            HTTPException: 403, this server has admin keys, and the request carries none of them.
        """
        if not request.state.is_admin:
            raise HTTPException(403, f"{action} needs an admin key (--admin-key) of this server")

    def options(self, request: Request, *, cache_salt: str | None, priority: int | None) -> RequestOptions:
        """Who asks, from the key they came with, and what they say about themselves.

        Raises:
            InvalidRequest: a value is out of range.
            HTTPException: 403, the priority is for admins only.
        """
        if priority is not None and priority < 0:
            self.check_admin(request, "a priority below 0")
        client_id: str = request.state.client_id
        salt = cache_salt or ""
        if self.config.isolate_clients:
            salt = hashlib.sha256(f"{client_id}/{salt}".encode(errors="surrogatepass")).hexdigest()
        return RequestOptions(client_id=client_id, cache_salt=salt, priority=priority or 0)

    async def answer(
        self,
        request: Request,
        options: RequestOptions,
        work: Callable[[Call], Awaitable[T]],
        *,
        request_id: str | None = None,
    ) -> T:
        """Do a call's work, unless its client goes away meanwhile.

        Raises:
            RametError: the request failed, was aborted or took too long.
        """
        with self.calls.open(options, request_id) as call:
            return await unless_disconnected(request, call, work(call))

    async def stream(
        self,
        request: Request,
        options: RequestOptions,
        make_events: Callable[[Call], Events],
        *,
        request_id: str | None = None,
    ) -> Response:
        """Stream a call's events; see `event_stream`.

        Raises:
            RametError: what happened before the first event.
        """
        return await event_stream(
            request,
            self.calls,
            options,
            request_id,
            make_events,
            stall_seconds=self.config.stall_seconds,
        )

    async def drain(self) -> None:
        """Let no request in any more; give those inside a while to finish, then abort them."""
        self.gate.draining = True
        if len(self.calls):
            logger.info("waiting up to %g s for %d requests", self.config.drain_seconds, len(self.calls))
        try:
            async with asyncio.timeout(self.config.drain_seconds):
                await self.calls.wait_idle()
        except TimeoutError:
            logger.warning("aborting %d requests that did not finish in time", self.calls.abort_all())
            await self.calls.wait_idle()


async def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


ServiceDep = Annotated[Service, Depends(_service)]
"""How a route gets the service: ``async def route(service: ServiceDep)``."""
