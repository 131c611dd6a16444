"""Seam 1, between programs and whatever runs them.

The in-process engine, an HTTP client, a hosted API and a mock all satisfy `Backend`. It is given
values (a `Prompt`, a `SamplingParams`), never an interpreter, and it is asynchronous: cancelling a
call aborts its request. Synchronous callers go through `ramet.facade.Facade`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from ramet.types import Chunk, Completion, Prompt, SamplingParams, Score


@runtime_checkable
class Backend(Protocol):
    """What a program needs from a model."""

    async def generate(self, prompt: Prompt, params: SamplingParams) -> list[Completion]:
        """``params.n`` completions of the prompt.

        Raises:
            InvalidRequest: the prompt or a parameter is refused.
            EngineError, BackendError: the request failed.
        """
        ...

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncIterator[Chunk]:
        """The same, as chunks in the order they are made; closing the iterator aborts the request."""
        ...

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        """The logprobs of each continuation after the prompt, in order. The prompt may be empty."""
        ...

    async def cache_prefix(self, prompt: Prompt) -> None:
        """A hint: requests that begin with this prompt will follow. May do nothing."""
        ...

    def render(self, prompt: Prompt) -> str:
        """The prompt as text, roles written out the way the model sees them."""
        ...
