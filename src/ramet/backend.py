"""Seam 1, between programs and whatever runs them.

The in-process engine, an HTTP client, a hosted API and a mock all satisfy `Backend`. It is given
values (a `Prompt`, a `SamplingParams`), never an interpreter, and it is asynchronous: cancelling a
call aborts its request. Synchronous callers go through `ramet.facade.Facade`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from ramet.sampling_params import SamplingParams
from ramet.types import DEFAULT_OPTIONS, Chunk, Completion, Prompt, RequestOptions, Score


@runtime_checkable
class Backend(Protocol):
    """What a program needs from a model."""

    async def generate(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> list[Completion]:
        """``params.n`` completions of the prompt.

        Raises:
            InvalidRequest: the prompt or a parameter is refused.
            Overloaded: too many requests wait already.
            EngineError, BackendError: the request failed.
        """
        ...

    def stream(
        self, prompt: Prompt, params: SamplingParams, *, options: RequestOptions = DEFAULT_OPTIONS
    ) -> AsyncIterator[Chunk]:
        """The same, as chunks in the order they are made; closing the iterator aborts the request."""
        ...

    async def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int = 0,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> list[Score]:
        """The logprobs of each continuation, text or token ids, after the prompt, in order.

        The prompt may be empty. Of each token, ``top_logprobs`` of the likeliest alternatives are told too.
        """
        ...

    async def cache_prefix(
        self, prompt: Prompt, *, lease_seconds: float = 0.0, options: RequestOptions = DEFAULT_OPTIONS
    ) -> None:
        """A hint: requests that begin with this prompt will follow. May do nothing.

        With a lease its KV is not dropped for so long, as far as the engine has room for such promises.
        """
        ...

    def render(self, prompt: Prompt) -> str:
        """The prompt as text, roles written out the way the model sees them."""
        ...
