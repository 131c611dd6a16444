"""A server process from its socket to its end: how it listens, drains, dies and starts anew.

The socket is opened once and outlives an engine that died, so that clients who come meanwhile wait instead of
being refused. Needs the ``server`` extra. Knows engines by what it is given to make them with.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ramet.cli.listening import BACKLOG, url_of
from ramet.config import ServerConfig
from ramet.errors import EngineDead, InvalidRequest
from ramet.model_card import ModelCard
from ramet.server.app import create_app
from ramet.server.served import ServedEngine
from ramet.server.service import Service

logger = logging.getLogger("ramet.server")

KEEP_ALIVE_SECONDS = 75  # more than the usual 60 of a proxy in front, so that it is the proxy that closes
MAX_HEAD_BYTES = 64 * 1024
MAX_RESTART_PAUSE = 30.0  # seconds


class OwnedEngine(ServedEngine, Protocol):
    """An engine that is ours to end."""

    def shutdown(self) -> None: ...


def run_server(
    engine: OwnedEngine,
    config: ServerConfig,
    listener: socket.socket,
    *,
    on_ready: Callable[[str, ModelCard], None],
    make_another: Callable[[], OwnedEngine] | None = None,
    exit_with_parent: bool = False,
) -> int:
    """Serve until somebody says stop; returns the exit code of the process.

    SIGTERM, SIGINT and (``exit_with_parent``) the end of stdin say stop: running requests get a while to
    finish, new ones are turned away, and the code is 0. A second signal does not wait.

    Args:
        engine: shut down at the end.
        config: how to serve.
        listener: where; see `ramet.cli.listening`. It stays open.
        on_ready: called with the URL and the model when an engine is being served.
        make_another: starts an engine in the place of one that died; ``None``: there is to be no other.
        exit_with_parent: stop at the end of stdin, too.

    Raises:
        InvalidRequest: the certificate cannot be used.
        EngineDead: the engine died, and there is no other.
        RametError: no other engine could be made.
    """
    if exit_with_parent:
        threading.Thread(target=_stop_at_end_of_stdin, name="ramet-stdin", daemon=True).start()
    url = url_of(listener, config)
    pause = 0.0
    while True:
        started = time.monotonic()
        try:
            server = ServerProcess(create_app(engine, config), config, partial(on_ready, url, engine.card))
            server.watch(engine)
            server.run([listener.dup()])
        finally:
            engine.shutdown()
        if server.death is None:
            return 128 + server.second_signal if server.second_signal else 0
        if make_another is None:
            raise server.death
        lasted = time.monotonic() - started > MAX_RESTART_PAUSE
        pause = 0.0 if lasted else min(pause * 2 + 1, MAX_RESTART_PAUSE)
        logger.error("%s; starting anew in %g s", server.death, pause)
        time.sleep(pause)
        gc.unfreeze()  # the engine that died was frozen with all else
        gc.collect()
        engine = make_another()


class ServerProcess(uvicorn.Server):
    """Serves one application in the main thread until it is told to stop or its engine dies.

    Attributes:
        death: why the engine died, if it did.
        second_signal: the signal that did not want to wait.
    """

    def __init__(self, app: FastAPI, config: ServerConfig, on_ready: Callable[[], None]) -> None:
        super().__init__(_uvicorn_config(app, config))
        service = app.state.service
        assert isinstance(service, Service)
        self.death: EngineDead | None = None
        self.second_signal = 0
        self._service = service
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_told = False
        self._draining: asyncio.Task[None] | None = None

    def watch(self, engine: ServedEngine) -> None:
        """Stop when this engine dies."""

        def on_death(death: EngineDead) -> None:
            self.death = death
            self.stop()

        engine.add_death_callback(on_death)

    def stop(self) -> None:
        """Stop as soon as the requests inside have ended. From any thread."""
        if self._loop is None:
            self.should_exit = True
            return
        with suppress(RuntimeError):  # it has stopped already
            self._loop.call_soon_threadsafe(self._drain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.freeze()  # what is loaded stays: a collection that looks through it holds everybody up
        if self.started and not self.should_exit:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not uvicorn's: it would close the socket at once, and end the process by the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._is_told:
            self._is_told = True
            self.stop()
        else:
            self.second_signal = number
            signal.signal(number, signal.SIG_DFL)  # a third one ends the process wherever it hangs
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._give_up)

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._service.drain())
            self._draining.add_done_callback(self._end)

    def _give_up(self) -> None:
        self._service.calls.abort_all()
        self.config.timeout_graceful_shutdown = 1
        self._end()

    def _end(self, _: object = None) -> None:
        self.should_exit = True


def _stop_at_end_of_stdin() -> None:
    with suppress(OSError):  # no stdin: nobody holds it
        while os.read(0, 4096):  # not sys.stdin: it could not be closed while we wait
            pass
    signal.raise_signal(signal.SIGTERM)


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP, which would wait for ever for the head of a request.

    NOTE: h11 by name. Its faster alternative, which uvicorn prefers where it is installed, reads pipelined
    requests without bound, takes trailers for headers, and drops the body of a request with ``Upgrade``.
    """

    patience_seconds = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(error)

    def _wait_for(self, last_request: Any) -> None:
        self._timer = self.loop.call_later(self.patience_seconds, self._look, last_request)

    def _look(self, last_request: Any) -> None:
        """Close a connection that is between requests, as it was after the same one a while ago."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is last_request:
            self.transport.close()
        else:
            self._wait_for(self.cycle)


def _uvicorn_config(app: FastAPI, config: ServerConfig) -> uvicorn.Config:
    protocol = type("Protocol", (ImpatientProtocol,), {"patience_seconds": config.body_seconds})
    made = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # the gate logs one line per request
        server_header=False,
        proxy_headers=False,  # nothing depends on the address of a client
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,  # the requests have ended by then: this is for responses nobody reads
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
        ssl_keyfile_password=config.ssl_keyfile_password,
        ssl_ca_certs=config.ssl_ca_certs,
        ssl_cert_reqs=ssl.CERT_REQUIRED if config.ssl_ca_certs else ssl.CERT_NONE,
    )
    try:
        made.load()
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(f"the certificate or its key cannot be used: {error}") from error
    return made
