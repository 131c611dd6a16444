"""The socket a server listens on, and what the system is told about it. Imports no server."""

from __future__ import annotations

import socket
from contextlib import suppress

from ramet.config import ServerConfig
from ramet.errors import InvalidRequest

BACKLOG = 4096  # connections that wait to be accepted; the system may have a lower limit


def listen(config: ServerConfig) -> socket.socket:
    """A listening socket.

    The system drops a peer that leaves what was sent to it unread for too long, where it can do that.

    Raises:
        InvalidRequest: the address is unknown or taken.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidRequest(f"cannot listen on {config.host}:{config.port}: {error.strerror}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # connections inherit these
    # asyncio asks for this only of sockets that were made with a protocol number. Without it the second small
    # write of a response waits some 40 ms for the first one to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(config.stall_seconds * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener


def url_of(listener: socket.socket, config: ServerConfig) -> str:
    """Where a client on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if config.ssl_certfile else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def allow_many_connections() -> None:
    """Let this process have as many open files as it may: one per connection."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems state a limit that they do not accept
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
