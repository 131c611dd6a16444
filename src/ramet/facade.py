"""What users call on an engine or an endpoint: generation and scoring over any `Backend`.

One asynchronous implementation with a thin synchronous face, safe to call from many threads.
Invariant: the backend is called on the background loop only, whatever thread or loop the caller is on,
so that a backend may keep connections. It must not know what kind of backend it has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, Unpack, cast

from ramet.backend import Backend
from ramet.errors import InvalidRequest
from ramet.event_loop import closing, gather, iterate, on_loop, relay, run_sync
from ramet.sampling_params import SamplingOptions, SamplingParams
from ramet.types import Chunk, Completion, Prompt, Score

PromptLike: TypeAlias = str | Prompt | Sequence[int] | Sequence[Mapping[str, str]]
"""One prompt as callers write it: text, a `Prompt`, token ids, or chat messages."""


class Facade:
    """Generate, stream and score on a backend.

    A subclass builds its backend and passes it to ``__init__``.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def generate(self, prompt: PromptLike | Sequence[PromptLike], **sampling: Unpack[SamplingOptions]) -> Any:
        """Complete a prompt, or many at once.

        Returns:
            A `Completion` for one prompt, a list of them for a list of prompts; with ``n > 1`` there is
            a list of completions in the place of each completion.

        Raises:
            InvalidRequest: a prompt or a sampling parameter is refused. Of several prompts, the first
                that fails is raised and the others are cancelled.
            RametError: the backend failed.
        """
        return run_sync(self._generate(*_prompts(prompt), SamplingParams().replace(**sampling)))

    async def agenerate(
        self, prompt: PromptLike | Sequence[PromptLike], **sampling: Unpack[SamplingOptions]
    ) -> Any:
        """`generate`, awaited. Cancelling it aborts the requests."""
        return await on_loop(self._generate(*_prompts(prompt), SamplingParams().replace(**sampling)))

    def stream(self, prompt: PromptLike, **sampling: Unpack[SamplingOptions]) -> Generator[Chunk, None, None]:
        """Complete one prompt piece by piece. Closing the iterator early aborts the request.

        Raises:
            InvalidRequest: at once, if the prompt or a parameter is malformed.
            RametError: from the iterator, if the backend failed.
        """
        return iterate(self._stream(_one_prompt(prompt), SamplingParams().replace(**sampling)))

    def astream(self, prompt: PromptLike, **sampling: Unpack[SamplingOptions]) -> AsyncGenerator[Chunk, None]:
        """`stream` as an asynchronous iterator."""
        return relay(self._stream(_one_prompt(prompt), SamplingParams().replace(**sampling)))

    def score(self, prompt: PromptLike, continuations: Sequence[str]) -> list[Score]:
        """The logprobs of each continuation after the prompt, in order.

        Raises:
            InvalidRequest: ``continuations`` is not a non-empty list of non-empty strings.
            RametError: the backend failed.
        """
        return run_sync(self._score(_one_prompt(prompt), _continuations(continuations)))

    async def ascore(self, prompt: PromptLike, continuations: Sequence[str]) -> list[Score]:
        """`score`, awaited."""
        return await on_loop(self._score(_one_prompt(prompt), _continuations(continuations)))

    # ------------------------------------------------------------------------ on the background loop

    async def _generate(self, prompts: list[Prompt], many: bool, params: SamplingParams) -> Any:
        outcomes = await gather([self._completions(prompt, params) for prompt in prompts])
        results = [outcome[0] if params.n == 1 else outcome for outcome in outcomes]
        return results if many else results[0]

    async def _completions(self, prompt: Prompt, params: SamplingParams) -> list[Completion]:
        return await self.backend.generate(prompt, params)

    async def _stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        async with closing(self.backend.stream(prompt, params)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _score(self, prompt: Prompt, continuations: list[str]) -> list[Score]:
        return await self.backend.score(prompt, continuations)


# -------------------------------------------------------------------------------------- what callers write


def _prompts(value: PromptLike | Sequence[PromptLike]) -> tuple[list[Prompt], bool]:
    """The prompts, and whether the caller wrote a list of them."""
    if _is_one_prompt(value):
        return [_one_prompt(cast(PromptLike, value))], False
    if not _is_list(value):
        raise InvalidRequest(
            f"prompt must be a string, token ids, messages, a Prompt or a list of these, "
            f"got {type(value).__name__}"
        )
    prompts = []
    for index, item in enumerate(value):
        if not _is_one_prompt(item):
            raise InvalidRequest(
                f"prompt[{index}] must be a string, token ids, messages or a Prompt, "
                f"got {type(item).__name__}"
            )
        prompts.append(_one_prompt(cast(PromptLike, item)))
    return prompts, True


def _is_one_prompt(value: object) -> bool:
    """Whether this is one prompt. An empty list is an empty prompt, not no prompts."""
    if isinstance(value, (str, Prompt)):
        return True
    return _is_list(value) and (not value or isinstance(value[0], (int, Mapping)))


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether this is a sequence of things. Bytes are not token ids."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _one_prompt(value: PromptLike) -> Prompt:
    if _is_list(value):
        if value and isinstance(value[0], Mapping):
            for index, message in enumerate(value):
                if not isinstance(message, Mapping):
                    raise InvalidRequest(
                        f"messages[{index}] must be a dict with role and content, "
                        f"got {type(message).__name__}"
                    )
            return Prompt.from_messages(cast(Sequence[Mapping[str, str]], value))
        if value and not isinstance(value[0], int):
            raise InvalidRequest("this takes one prompt, got a list of them")
    elif not isinstance(value, (str, Prompt)):
        raise InvalidRequest(
            f"prompt must be a string, token ids, messages or a Prompt, got {type(value).__name__}"
        )
    return Prompt.of(cast("str | Sequence[int] | Prompt", value))


def _continuations(value: Sequence[str]) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise InvalidRequest("continuations must be a non-empty list of strings")
    for index, text in enumerate(value):
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"continuations[{index}] must be a non-empty string, got {text!r}")
    return list(value)
