"""An engine whose calls are timed on their way through. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from ramet.errors import EngineDead
from ramet.event_loop import closing
from ramet.model_card import ModelCard
from ramet.sampling_params import SamplingParams
from ramet.server.served import ServedEngine
from ramet.stats import EngineStats
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.types import DEFAULT_OPTIONS, Chunk, Completion, Prompt, RequestOptions, Score


class RequestTimes(Protocol):
    """Where the times of one request go."""

    def chunk(self, index: int, num_tokens: int) -> None:
        """A chunk of the completion ``index`` has come."""
        ...

    def finished(self, completions: Sequence[Completion]) -> None:
        """All has come."""
        ...


class MeasuredEngine:
    """Satisfies `ServedEngine`.

    Args:
        inner: what does the work.
        start: called when a request begins.
    """

    def __init__(self, inner: ServedEngine, start: Callable[[], RequestTimes]) -> None:
        self._inner = inner
        self._start = start

    @property
    def card(self) -> ModelCard:
        return self._inner.card

    @property
    def tokenizer(self) -> Tokenizer:
        return self._inner.tokenizer

    @property
    def is_alive(self) -> bool:
        return self._inner.is_alive

    def add_death_callback(self, callback: Callable[[EngineDead], None]) -> None:
        self._inner.add_death_callback(callback)

    async def encode(self, prompt: Prompt) -> list[int]:
        return await self._inner.encode(prompt)

    async def stats(self) -> EngineStats:
        return await self._inner.stats()

    async def flush_cache(self) -> bool:
        return await self._inner.flush_cache()

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> list[Completion]:
        times = self._start()
        completions = await self._inner.generate(prompt, params, options=options)
        times.finished(completions)
        return completions

    async def stream(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Chunk, None]:
        times = self._start()
        completions = []
        async with closing(self._inner.stream(prompt, params, options=options)) as chunks:
            async for chunk in chunks:
                times.chunk(chunk.index, len(chunk.token_ids))
                if chunk.completion is not None:
                    completions.append(chunk.completion)
                yield chunk
        times.finished(completions)

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int = 0,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Score]:
        times = self._start()
        scores = await self._inner.score(prompt, continuations, top_logprobs=top_logprobs, options=options)
        times.finished(())
        return scores

    async def cache_prefix(
        self, prompt: Prompt, *, lease_seconds: float = 0.0, options: RequestOptions = DEFAULT_OPTIONS
    ) -> None:
        await self._inner.cache_prefix(prompt, lease_seconds=lease_seconds, options=options)

    def render(self, prompt: Prompt) -> str:
        return self._inner.render(prompt)
