"""`MockBackend`: a backend with made replies, for testing programs without a model.

It records what it is asked. Its replies are taken as they are: sampling parameters do not change them.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ramet.errors import BackendError, InvalidRequest, UnsupportedFeature
from ramet.sampling_params import SamplingParams
from ramet.types import (
    DEFAULT_OPTIONS,
    Chunk,
    Completion,
    Generated,
    Prompt,
    RequestOptions,
    RoleBegin,
    RoleEnd,
    Score,
    Text,
    TokenLogprob,
    Tokens,
    Usage,
)

Reply: TypeAlias = str | BaseException
Replies: TypeAlias = Reply | Sequence[Reply] | Callable[[Prompt, SamplingParams], Reply | Awaitable[Reply]]
Logprobs: TypeAlias = float | Sequence[float | None]
Scores: TypeAlias = Mapping[str, Logprobs] | Callable[[Prompt, str], Logprobs]

_UNLIKELY = -20.0
_LOGPROB = -0.5


@dataclass(frozen=True, slots=True)
class MockCall:
    """One call of a mock. ``text`` is the prompt rendered."""

    kind: Literal["generate", "stream", "score", "cache_prefix"]
    prompt: Prompt
    text: str
    params: SamplingParams | None = None
    continuations: tuple[str, ...] = ()


class MockBackend:
    """Replies as told.

    Args:
        replies: one text for every request; or a list, used in order, after whose end requests fail; or
            a function of the prompt and the parameters, which may be ``async``. An exception in the
            place of a text is raised.
        scores: the logprob of each token of a continuation (a number, or one per token); a mapping, in
            which what is absent is unlikely, or a function of prompt and continuation. By default earlier
            continuations are likelier.
        delay: seconds before each reply.

    Attributes:
        calls: every call so far, in order.
        in_flight: requests that have begun and not ended.
        num_cancelled: requests that were cancelled.
    """

    def __init__(
        self, replies: Replies = "mock", *, scores: Scores | None = None, delay: float = 0.0
    ) -> None:
        self.calls: list[MockCall] = []
        self.in_flight = 0
        self.num_cancelled = 0
        self._replies = replies
        self._script: Iterator[Reply] = iter(replies if isinstance(replies, Sequence) else ())
        self._scores = scores
        self._delay = delay

    def calls_of(self, kind: str) -> list[MockCall]:
        """The calls of one kind."""
        return [call for call in self.calls if call.kind == kind]

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> list[Completion]:
        self.calls.append(MockCall("generate", prompt, self.render(prompt), params))
        async with self._request():
            return [await self._completion(prompt, params) for _ in range(params.n)]

    async def stream(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Chunk, None]:
        """One chunk per token."""
        self.calls.append(MockCall("stream", prompt, self.render(prompt), params))
        async with self._request():
            for index in range(params.n):
                completion = await self._completion(prompt, params)
                pieces = token_texts(completion.text)
                for position, piece in enumerate(pieces):
                    logprobs = completion.logprobs
                    yield Chunk(
                        piece,
                        completion.token_ids[position : position + 1],
                        index,
                        None if logprobs is None else logprobs[position : position + 1],
                        completion if position == len(pieces) - 1 else None,
                    )
                if not pieces:
                    yield Chunk("", (), index, completion=completion)

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int = 0,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Score]:
        if not continuations:
            raise InvalidRequest("continuations must not be empty")
        texts = [text for text in continuations if isinstance(text, str)]
        if top_logprobs or len(texts) < len(continuations):
            raise UnsupportedFeature("MockBackend has no vocabulary: it scores texts, without alternatives")
        self.calls.append(MockCall("score", prompt, self.render(prompt), continuations=tuple(texts)))
        async with self._request():
            return [self._score(prompt, text, index) for index, text in enumerate(texts)]

    async def cache_prefix(
        self, prompt: Prompt, *, lease_seconds: float = 0.0, options: RequestOptions = DEFAULT_OPTIONS
    ) -> None:
        self.calls.append(MockCall("cache_prefix", prompt, self.render(prompt)))

    def render(self, prompt: Prompt) -> str:
        """``<|user|>…<|end|>`` around messages."""
        written = []
        for part in prompt.parts:
            match part:
                case Text(text) | Generated(text, _):
                    written.append(text)
                case Tokens(token_ids):
                    written.append(f"<|{','.join(map(str, token_ids))}|>")
                case RoleBegin(role):
                    written.append(f"<|{role}|>")
                case RoleEnd():
                    written.append("<|end|>")
        return "".join(written)

    @asynccontextmanager
    async def _request(self) -> AsyncGenerator[None, None]:
        self.in_flight += 1
        try:
            if self._delay:
                await asyncio.sleep(self._delay)
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.num_cancelled += 1
            raise
        finally:
            self.in_flight -= 1

    async def _completion(self, prompt: Prompt, params: SamplingParams) -> Completion:
        text = await self._reply(prompt, params)
        pieces, ids = token_texts(text), token_ids_of(text)
        logprobs = None
        if params.logprobs is not None:
            logprobs = tuple(TokenLogprob(i, piece, _LOGPROB) for i, piece in zip(ids, pieces, strict=True))
        usage = Usage(len(token_texts(self.render(prompt))), 0, len(ids))
        return Completion(text, ids, "stop", usage, logprobs=logprobs)

    async def _reply(self, prompt: Prompt, params: SamplingParams) -> str:
        if isinstance(self._replies, str):
            return self._replies
        if callable(self._replies):
            given = self._replies(prompt, params)
            reply = await given if inspect.isawaitable(given) else given
        elif isinstance(self._replies, BaseException):
            reply = self._replies
        else:
            end = BackendError(f"the mock has no reply left: {len(self._replies)} were given")
            reply = next(self._script, end)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def _score(self, prompt: Prompt, text: str, index: int) -> Score:
        given: Logprobs
        if self._scores is None:
            given = -1.0 - index
        elif callable(self._scores):
            given = self._scores(prompt, text)
        else:
            given = self._scores.get(text, _UNLIKELY)
        ids = token_ids_of(text)
        logprobs = (given,) * len(ids) if isinstance(given, (int, float)) else tuple(given)
        if len(logprobs) != len(ids):  # made logprobs define the tokens
            ids = tuple(range(len(logprobs)))
        return Score(text, ids, logprobs, Usage(len(token_texts(self.render(prompt))), 0, 0))


def token_texts(text: str) -> list[str]:
    """The mock's tokens: words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def token_ids_of(text: str) -> tuple[int, ...]:
    """Their ids."""
    return tuple(zlib.crc32(piece.encode()) & 0x7FFF_FFFF for piece in token_texts(text))
