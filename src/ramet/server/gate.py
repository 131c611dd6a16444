"""What every HTTP request passes before a route sees it: who sends it, is there room, how large is it.

A plain ASGI middleware. It reads the body, up to a limit of bytes and of seconds, so that a route never waits
for a client, and writes one line to the log when the response has ended. Knows nothing of routes but the
few that anybody may ask at any time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ramet.config import ServerConfig
from ramet.server.errors import CLIENT_CLOSED_REQUEST, error_body, error_response

access_log = logging.getLogger("ramet.server.access")

OPEN_PATHS = frozenset({"/health"})
"""Anybody may ask these, any web page too, with or without a key; also a server that is full or stopping."""

OBSERVED_PATHS = OPEN_PATHS | {"/metrics", "/server_info", "/get_server_info"}
"""These are answered even if the server is full or stopping: who watches it must see why."""


class Gate:
    """Lets requests in.

    Attributes:
        draining: new requests are turned away with 503; those inside go on.
        num_inside: requests inside now, those that are always answered not counted.
        num_turned_away: requests that were refused for want of room.
        responses: how many there have been, by route and status.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.draining = False
        self.num_inside = 0
        self.num_turned_away = 0
        self.responses: Counter[tuple[str, int]] = Counter()
        self._config = config
        self._api_keys = [_digest(key.encode()) for key in config.api_keys]
        self._admin_keys = [_digest(key.encode()) for key in config.admin_keys]

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Why this request may not come in; ``None`` if it may. Looks at its head only."""
        path = scope["path"]
        if path in OPEN_PATHS:
            return None
        if self._is_from_another_origin(headers):
            message = "a web page of another origin sent this; --cors-origin says which ones may call"
            return error_response(403, error_body(message, "invalid_request_error", "cross_origin"))
        client_id, is_admin = self._client(headers)
        if client_id is None:
            refused = error_response(
                401, error_body("the API key is missing or wrong", "invalid_request_error", "invalid_api_key")
            )
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        scope["state"]["client_id"] = client_id
        scope["state"]["is_admin"] = is_admin
        if client_id:
            scope["state"]["log"]["client"] = client_id
        if path in OBSERVED_PATHS:
            return None
        if self.draining:
            return error_response(503, error_body("the server is stopping", "server_error", "stopping"))
        if self.num_inside >= self._config.max_requests:
            self.num_turned_away += 1
            message = f"{self.num_inside} requests are in flight, the most this server takes; try again"
            return error_response(429, error_body(message, "overloaded_error", "overloaded"))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._config.max_body_bytes:
            return self.too_large()
        return None

    def too_large(self) -> Response:
        limit = self._config.max_body_bytes
        message = f"the body is larger than {limit} bytes, the most this server takes"
        return error_response(413, error_body(message, "invalid_request_error", "body_too_large"))

    def _is_from_another_origin(self, headers: Headers) -> bool:
        """Whether a browser says that a web page sent this which is not ours and may not call."""
        origin = headers.get("origin")
        if "*" in self._config.cors_origins or origin in self._config.cors_origins:
            return False
        site = headers.get("sec-fetch-site")
        if site is not None:  # decides where there is one: a proxy may have changed Host
            return site not in ("same-origin", "none")
        return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()

    def _client(self, headers: Headers) -> tuple[str | None, bool]:
        """A name for who asks, and whether they may do what is for admins only.

        The name does not give the key away. It is "" for who needs no key and has none that is known, and
        ``None`` for who needs one.
        """
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        candidate = _digest(key.encode("latin-1"))  # the bytes that were sent
        is_client, is_admin = _is_among(candidate, self._api_keys), _is_among(candidate, self._admin_keys)
        stranger = None if self._api_keys else ""
        return candidate.hex()[:16] if is_client or is_admin else stranger, is_admin or not self._admin_keys


class GateMiddleware:
    """Puts a `Gate` before an application."""

    def __init__(self, app: ASGIApp, gate: Gate, config: ServerConfig) -> None:
        self._app = app
        self._gate = gate
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        headers = Headers(scope=scope)
        visit = _Visit(scope, headers.get("x-request-id"), send)
        counted = scope["path"] not in OBSERVED_PATHS
        refusal = self._gate.refusal(scope, headers)
        try:
            if refusal is not None:
                await refusal(scope, receive, visit.send)
                return
            if not counted:  # they have no body, and nobody may hold them up with one
                await self._app(scope, receive, visit.send)
                return
            self._gate.num_inside += 1
            try:
                await self._enter(scope, receive, visit)
            finally:
                self._gate.num_inside -= 1
        finally:
            self._gate.responses[_route(scope), visit.status] += 1
            visit.log()

    async def _enter(self, scope: Scope, receive: Receive, visit: _Visit) -> None:
        try:
            async with asyncio.timeout(self._config.body_seconds):
                body = await _read_body(receive, self._config.max_body_bytes)
        except TimeoutError:
            message = f"the body did not arrive within {self._config.body_seconds:g} s"
            late = error_response(408, error_body(message, "invalid_request_error", "body_timeout"))
            late.headers["Connection"] = "close"
            await late(scope, receive, visit.send)
            return
        if body is None:  # the rest is read and dropped: who is still sending would not see the answer
            await self._gate.too_large()(scope, receive, visit.send)
            return
        await self._app(scope, _Replay(body, receive), visit.send)


class _Replay:
    """Gives a body that has been read, then whatever comes after it: the client's going."""

    def __init__(self, body: Message, receive: Receive) -> None:
        self._body: Message | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        return body if body is not None else await self._receive()


class _Visit:
    """One request and its response, for the log."""

    def __init__(self, scope: Scope, request_id: str | None, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = time.monotonic()
        self.status = CLIENT_CLOSED_REQUEST  # until a response begins
        is_fit = request_id is not None and request_id.isprintable() and 0 < len(request_id) <= 128
        self._id: str = request_id if request_id is not None and is_fit else uuid.uuid4().hex
        scope["state"]["request_id"] = self._id
        scope["state"]["log"] = {}  # routes may add what they know

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self._id
        await self._send(message)

    def log(self) -> None:
        facts = {
            "request_id": self._id,
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self.status,
            "seconds": round(time.monotonic() - self._started, 4),
            **(
                {"client": self._scope["state"]["client_id"]} if self._scope["state"].get("client_id") else {}
            ),
            **self._scope["state"]["log"],
        }
        access_log.info("%s", _line(facts), extra={"facts": facts})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_among(candidate: bytes, known: Iterable[bytes]) -> bool:
    # All are compared, each in constant time: how long it takes says nothing about them.
    matches = [hmac.compare_digest(candidate, each) for each in known]
    return any(matches)


def _route(scope: Scope) -> str:
    """The route that answered, as it was declared: there are few of them, and any number of paths."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "none"


def _line(facts: dict[str, object]) -> str:
    return " ".join(f"{name}={_quoted(value)}" for name, value in facts.items())


def _quoted(value: object) -> str:
    text = str(value)
    return (
        text if text and all(letter.isprintable() and letter not in ' "=' for letter in text) else repr(text)
    )


async def _read_body(receive: Receive, limit: int) -> Message | None:
    """The whole body as one message, or the client's going; ``None`` if it is too large."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            return None
        pieces.append(piece)
        if not message.get("more_body", False):
            return {"type": "http.request", "body": b"".join(pieces), "more_body": False}
