"""A client for benchmarks: streams from any OpenAI-compatible server, times what comes and checks it.

It speaks HTTP/1.1 itself, a connection per request, because a full client costs several times as much per
chunk, and what measures must not be what is slow. It trusts no server: whatever breaks the rules of a stream
makes the request an error.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ramet._version import __version__
from ramet.errors import BackendError, InvalidRequest

MAX_LINE_BYTES = 1 << 22
DONE = b"[DONE]"


@dataclass(slots=True)
class Answer:
    """What became of one request. Times are in seconds from when it was sent.

    Attributes:
        prompt: what was asked.
        sent: when it was sent, on the monotonic clock.
        error: what went wrong, in words that are the same for the same reason; ``None``: nothing.
        first: until the first text.
        gaps: between chunks with text.
        total: until the end.
        text: all of it.
        prompt_tokens, cached_tokens, completion_tokens: as the server counts them.
    """

    prompt: str = ""
    sent: float = 0.0
    error: str | None = None
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    total: float = 0.0
    text: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class BrokenStream(Exception):
    """A server broke the rules of a stream; the message says which."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    id: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Client:
    """Asks one server.

    Args:
        url: of the server, with or without ``/v1``.
        api_key: sent with every request.
        chat: ask for chat completions.
        stream: ask for streams; else there is one chunk, at the end.
        seconds: longest a request may take.

    Raises:
        InvalidRequest: the URL is none.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        chat: bool = False,
        stream: bool = True,
        seconds: float = 600.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise InvalidRequest(f"--url must be like http://127.0.0.1:8000, got {url!r}")
        self._host = parts.hostname
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._base = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = (
            f"Host: {parts.netloc.rpartition('@')[2]}\r\nUser-Agent: ramet-bench/{__version__}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n"
        ) + (f"Authorization: Bearer {api_key}\r\n" if api_key else "")
        self._chat = chat
        self._streams = stream
        self._seconds = seconds

    async def model(self) -> str:
        """The name of the first model that is served.

        Raises:
            BackendError: it cannot be reached, or is no such server.
        """
        try:
            status, body = await self._send("GET", "/models", b"")
            text = b"".join([piece async for piece in body])
        except (OSError, BrokenStream, asyncio.IncompleteReadError) as error:
            raise BackendError(f"there is no server at {self._host}:{self._port}: {error}") from error
        if status != 200:
            raise BackendError(
                f"{self._base}/models answered {status}: {text.decode(errors='replace')[:200]}"
            )
        try:
            return msgspec.json.decode(text, type=_Models).data[0].id
        except (msgspec.DecodeError, IndexError) as error:
            raise BackendError(f"{self._base}/models does not list models: {error}") from error

    async def ask(self, model: str, prompt: str, *, max_tokens: int, temperature: float) -> Answer:
        """Stream one answer; whatever goes wrong stands in it."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "ignore_eos": True,
        }
        if self._streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self._chat:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        answer = Answer(prompt=prompt, sent=time.monotonic())
        try:
            async with asyncio.timeout(self._seconds):
                await self._stream(msgspec.json.encode(body), StreamCheck(answer, max_tokens))
        except TimeoutError:
            answer.error = "timeout"
        except BrokenStream as broken:
            answer.error = str(broken)
        except asyncio.IncompleteReadError:
            answer.error = "the connection was closed before the end"
        except (OSError, asyncio.LimitOverrunError, msgspec.DecodeError) as error:
            answer.error = f"{type(error).__name__}: {error}"
        answer.total = time.monotonic() - answer.sent
        return answer

    async def _stream(self, request: bytes, stream: StreamCheck) -> None:
        path = "/chat/completions" if self._chat else "/completions"
        status, body = await self._send("POST", path, request)
        if status != 200:
            async for _ in body:
                pass
            raise BrokenStream(f"HTTP {status}")
        if not self._streams:
            stream.take(b"".join([piece async for piece in body]), time.monotonic())
            stream.take(DONE, time.monotonic())
        rest = b""
        async for piece in body:
            now = time.monotonic()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    stream.take(line[5:].strip(), now)
        stream.end()

    async def _send(self, method: str, path: str, content: bytes) -> tuple[int, AsyncIterator[bytes]]:
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._ssl, limit=MAX_LINE_BYTES
        )
        try:
            length = f"Content-Length: {len(content)}\r\n\r\n"
            head = f"{method} {self._base}{path} HTTP/1.1\r\n{self._headers}{length}"
            writer.write(head.encode() + content)
            status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except BaseException:
            writer.close()
            raise
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(status_line.split()[1]), _body(reader, writer, headers)


class StreamCheck:
    """Takes the events of a stream into an answer; complains of what a stream may not do."""

    def __init__(self, answer: Answer, max_tokens: int) -> None:
        self._answer = answer
        self._max_tokens = max_tokens
        self._decoder = msgspec.json.Decoder(_Event)
        self._last = 0.0
        self._id: str | None = None
        self._texts: list[str] = []
        self._finish: str | None = None
        self._is_counted = False
        self._is_done = False

    def take(self, data: bytes, now: float) -> None:
        """
        Raises:
            BrokenStream: the event may not come, or not here.
        """
        if self._is_done:
            raise BrokenStream("an event after [DONE]")
        if data == DONE:
            self._is_done = True
            return
        event = self._decoder.decode(data)
        if event.error is not None:
            message = event.error.get("message") if isinstance(event.error, dict) else event.error
            raise BrokenStream(f"error event: {message}")
        if self._id is not None and event.id != self._id:
            raise BrokenStream("chunks with different ids in one stream")
        self._id = event.id
        for choice in event.choices:
            self._take_choice(choice, now)
        if event.usage is not None:
            self._is_counted = True
            self._answer.prompt_tokens = event.usage.prompt_tokens
            self._answer.completion_tokens = event.usage.completion_tokens
            details = event.usage.prompt_tokens_details
            self._answer.cached_tokens = (details.cached_tokens or 0) if details is not None else 0

    def _take_choice(self, choice: _Choice, now: float) -> None:
        if choice.index != 0:
            raise BrokenStream("a choice that nobody asked for")
        message = choice.delta or choice.message
        text = choice.text or (message.content if message is not None else "")
        if text:
            if self._finish is not None:
                raise BrokenStream("text after the end")
            self._texts.append(text)
            answer = self._answer
            if answer.first is None:
                answer.first = now - answer.sent
            else:
                answer.gaps.append(now - self._last)
            self._last = now
        if choice.finish_reason is not None:
            if self._finish is not None:
                raise BrokenStream("two ends in one stream")
            self._finish = choice.finish_reason

    def end(self) -> None:
        """
        Raises:
            BrokenStream: something is missing.
        """
        self._answer.text = "".join(self._texts)
        if self._finish is None:
            raise BrokenStream("no finish_reason")
        if not self._is_done:
            raise BrokenStream("no [DONE]")
        if self._is_counted:
            num_tokens = self._answer.completion_tokens
            if num_tokens < len(self._texts):
                raise BrokenStream("more chunks with text than tokens")
            if self._finish == "length" and num_tokens != self._max_tokens:
                raise BrokenStream("cut at another length than asked for")


async def _body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]
) -> AsyncIterator[bytes]:
    """The body of a response in pieces, as they come."""
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                yield (await reader.readexactly(size + 2))[:-2]
        elif "content-length" in headers:
            yield await reader.readexactly(int(headers["content-length"]))
        else:
            while piece := await reader.read(1 << 16):
                yield piece
    finally:
        writer.close()
