"""The application: routes, gate and what they share, put together.

Knows an engine by `ServedEngine` only; starts no process and binds no socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from ramet._version import __version__
from ramet.config import ServerConfig
from ramet.server.errors import add_error_handlers
from ramet.server.gate import Gate, GateMiddleware
from ramet.server.metrics import Metrics, metrics_routes
from ramet.server.native.routes import native_routes
from ramet.server.openai.routes import openai_routes
from ramet.server.served import ServedEngine
from ramet.server.service import Service


def create_app(engine: ServedEngine, config: ServerConfig | None = None) -> FastAPI:
    """An ASGI application that serves an engine.

    The engine is not shut down with it: who made it does that.

    Raises:
        InvalidRequest: an option of the server is out of range.
    """
    config = config or ServerConfig()
    gate = Gate(config)
    service = Service(engine, config, gate, Metrics(engine, gate))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.drain()

    app = FastAPI(
        title="Ramet",
        version=__version__,
        summary="Language-model programs and OpenAI's interface over one engine.",
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(openai_routes())
    app.include_router(native_routes())
    app.include_router(metrics_routes())
    add_error_handlers(app)
    app.add_middleware(GateMiddleware, gate=gate, config=config)
    if config.cors_origins:  # outermost: also a refusal must be readable by the page that asked
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    return app
