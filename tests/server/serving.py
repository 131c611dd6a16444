"""Applications over engines without a model, in this process and behind a real socket."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import httpx
import uvicorn

from ramet.config import ServerConfig
from ramet.server.app import create_app


def in_process(engine, **options) -> httpx.AsyncClient:
    """A client that calls the application directly: no socket, no disconnects."""
    transport = httpx.ASGITransport(create_app(engine, ServerConfig(**options)), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ramet", timeout=30)


@contextmanager
def listening(engine, **options):
    """Serve an engine on a free port of this machine while the context lasts; gives the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `ramet.cli.listening.listen` does
        app = create_app(engine, ServerConfig(**options))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
