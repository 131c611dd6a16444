"""A backend that counts what a program asks of the backend behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from ramet.backend import Backend
from ramet.event_loop import closing, gather
from ramet.sampling_params import SamplingParams
from ramet.types import DEFAULT_OPTIONS, Chunk, Completion, Prompt, RequestOptions, Score


class MeteredBackend:
    """Satisfies `ramet.backend.Backend`.

    Args:
        inner: what does the work.
        isolated: score each continuation in a call of its own, and pass no hints on: the same work, by a
            caller who knows nothing of sharing.

    Attributes:
        calls: requests made: generations, and continuations scored.
        tokens_asked: tokens of their prompts (and of the continuations), each counted as often as asked.
    """

    def __init__(self, inner: Backend, *, isolated: bool) -> None:
        self.calls = 0
        self.tokens_asked = 0
        self._inner = inner
        self._isolated = isolated

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> list[Completion]:
        completions = await self._inner.generate(prompt, params, options=options)
        for completion in completions:
            self._count(completion.usage.prompt_tokens)
        return completions

    async def stream(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncGenerator[Chunk, None]:
        async with closing(self._inner.stream(prompt, params, options=options)) as chunks:
            async for chunk in chunks:
                if chunk.completion is not None:
                    self._count(chunk.completion.usage.prompt_tokens)
                yield chunk

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int = 0,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Score]:
        groups = [[continuation] for continuation in continuations] if self._isolated else [continuations]
        scored = await gather(
            [self._inner.score(prompt, group, top_logprobs=top_logprobs, options=options) for group in groups]
        )
        scores = [score for group in scored for score in group]
        for score in scores:
            self._count(score.usage.prompt_tokens + len(score.token_ids))
        return scores

    async def cache_prefix(
        self, prompt: Prompt, *, lease_seconds: float = 0.0, options: RequestOptions = DEFAULT_OPTIONS
    ) -> None:
        if not self._isolated:
            await self._inner.cache_prefix(prompt, lease_seconds=lease_seconds, options=options)

    def render(self, prompt: Prompt) -> str:
        return self._inner.render(prompt)

    def _count(self, num_tokens: int) -> None:
        self.calls += 1
        self.tokens_asked += num_tokens
