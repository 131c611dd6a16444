"""HTTP to a Ramet server: connections, events of a stream, repeated attempts, and failures as errors.

Invariant: a request is sent again only if nothing of an answer has come, or the server asked to come back; a
caller that is cancelled closes its connection, by which the server knows. Needs httpx (the ``client`` extra).
It must not know what the requests are.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec

from ramet.errors import BackendError, InvalidRequest, RametError
from ramet.wire import error_from

CONNECT_SECONDS = 10.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
"""Seconds between attempts: the first pause, which doubles, and the longest one a server may ask for."""

_NO_ANSWER = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)
"""What may happen before an answer begins and says that none will; not that one takes long."""

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class HttpClient:
    """Requests to one server, all of them on the background event loop.

    Args:
        url: of the server, without a path.
        api_key: sent with every request.
        timeout: seconds without a byte after which a request is given up; ``None``: never.
        verify: whether certificates are checked.
        max_connections: at a time; further requests wait for one.
        max_retries: attempts after the first.

    Raises:
        InvalidRequest: the URL is none.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout: float | None,
        verify: bool,
        max_connections: int,
        max_retries: int,
    ) -> None:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidRequest(f"url must begin with http:// or https://, got {url!r}")
        self.url = url.rstrip("/")
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
            "timeout": httpx.Timeout(timeout, connect=CONNECT_SECONDS, pool=None),
            "verify": verify,
            "trust_env": httpx.URL(self.url).host not in _LOCAL,  # no proxy stands between us and ourselves
            "limits": httpx.Limits(
                max_connections=max_connections, max_keepalive_connections=max_connections
            ),
        }
        self._max_retries = max_retries
        self._pid = os.getpid()
        self._client = self._connected()

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The body of the answer.

        Raises:
            RametError: what the server says is wrong.
            BackendError: no answer, or half of one.
        """
        response = await self._send(method, path, body)
        try:
            return await response.aread()
        except httpx.TransportError as error:
            raise self._broken(error) from error
        finally:
            await response.aclose()

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """The events of a stream, each a JSON text, until it says that it is done.

        Raises:
            RametError: what the server says is wrong, before the first event.
            BackendError: no answer, or it broke off.
        """
        response = await self._send("POST", path, body)
        done, rest = False, b""
        try:
            async for (
                data
            ) in response.aiter_bytes():  # to its very end: then the connection can be used again
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    done = done or event == b"data: [DONE]"
                    if not done and event.startswith(b"data: "):
                        yield event.removeprefix(b"data: ")
        except httpx.TransportError as error:
            raise self._broken(error) from error
        finally:
            await response.aclose()
        if not done:
            raise BackendError(f"the stream from {self.url} broke off", retryable=True)

    async def aclose(self) -> None:
        """Close all connections: what is being asked is given up."""
        if self._pid == os.getpid():
            await self._client.aclose()

    def _connected(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(**self._options)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """A good answer, of which the head has come."""
        if self._pid != os.getpid():  # a forked process must leave its parent's connections alone
            self._pid, self._client = os.getpid(), self._connected()
        content = b"" if body is None else _json(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        for attempt in range(self._max_retries + 1):
            if self._client.is_closed:
                raise BackendError(f"the connections to {self.url} have been closed")
            request = self._client.build_request(method, path, content=content, headers=headers)
            pause = FIRST_PAUSE * 2**attempt
            failure: RametError
            cause: Exception | None = None
            try:
                response = await self._client.send(request, stream=True)
            except httpx.TransportError as error:
                failure, cause = self._unreachable(error), error
                again = isinstance(error, _NO_ANSWER)
            else:
                if response.is_success:
                    return response
                failure = await self._refusal(response)
                again = response.status_code in (429, 503)
                pause = max(pause, _retry_after(response))
            if not again or attempt == self._max_retries:
                raise failure from cause
            await asyncio.sleep(pause * random.uniform(1.0, 1.5))  # those who failed together come back apart
        raise AssertionError("the last attempt returns or raises")

    async def _refusal(self, response: httpx.Response) -> RametError:
        try:
            content = await response.aread()
        except httpx.TransportError as error:
            return self._broken(error)
        finally:
            await response.aclose()
        return error_from(content, response.status_code)

    def _unreachable(self, error: Exception) -> BackendError:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return BackendError(f"{self.url} took too long to answer ({_said(error)})", retryable=True)
        return BackendError(
            f"no answer from {self.url} ({_said(error)}): is one running? `ramet serve` starts it",
            retryable=True,
        )

    def _broken(self, error: Exception) -> BackendError:
        return BackendError(f"the answer from {self.url} broke off ({_said(error)})", retryable=True)


def _json(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the request cannot be written as JSON: {error}") from error


def _retry_after(response: httpx.Response) -> float:
    seconds = response.headers.get("Retry-After", "")
    return min(float(seconds), LONGEST_PAUSE) if seconds.isdecimal() else 0.0


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
