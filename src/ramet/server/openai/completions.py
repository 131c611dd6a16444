"""``POST /v1/completions``: texts, and prompts in token ids, continued."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ramet.errors import InvalidRequest, PromptTooLong
from ramet.server.bodies import BodyRoute
from ramet.server.calls import Call
from ramet.server.errors import error_responses
from ramet.server.openai.logprobs import CompletionLogprobsWriter, joined, prompt_logprobs
from ramet.server.openai.responses import (
    CompletionChoice,
    CompletionLogprobs,
    TextCompletion,
    documented,
    encoded,
    json_response,
)
from ramet.server.openai.sampling import constraint_of, sampling_params
from ramet.server.openai.schemas import CompletionBody
from ramet.server.openai.usage import UsageCount
from ramet.server.service import Service, ServiceDep
from ramet.server.streaming import Events
from ramet.server.together import all_of, merged
from ramet.tokenizer.vocab import Vocab
from ramet.types import Chunk, Completion, Prompt, RequestOptions, Tokens, TopLogprob

DEFAULT_MAX_TOKENS = 16

router = APIRouter(route_class=BodyRoute)


@router.post(
    "/v1/completions",
    response_model=None,
    responses={**documented(TextCompletion, chunk=TextCompletion), **error_responses(404)},
    tags=["openai"],
)
async def create_completion(request: Request, body: CompletionBody, service: ServiceDep) -> Response:
    """Continue one prompt or several."""
    service.check_model(body.model)
    work = _Completions(request, body, service)
    await work.read_prompts()
    options = service.options(request, cache_salt=body.cache_salt, priority=body.priority)
    if body.stream:
        return await service.stream(request, options, work.events, request_id=body.request_id)
    return json_response(await service.answer(request, options, work.answer, request_id=body.request_id))


@dataclass(frozen=True, slots=True)
class _Given:
    """One prompt of a request."""

    prompt: Prompt
    text: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class _Echo:
    """What of a prompt stands before each of its completions."""

    text: str = ""
    logprobs: CompletionLogprobs | None = None


class _Completions:
    """One request: what it asks of the engine, and how it is answered."""

    def __init__(self, request: Request, body: CompletionBody, service: Service) -> None:
        self._facts: dict[str, object] = request.state.log
        self._body = body
        self._engine = service.engine
        self._model = service.model_name
        self._vocab = service.engine.tokenizer.vocab
        self._params = sampling_params(
            body,
            max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            logprobs=body.logprobs,
            constraint=constraint_of(body),
        )
        prompts, most = body.prompts, service.config.max_prompts
        if len(prompts) * self._params.n > most:
            raise InvalidRequest(
                f"prompt: {len(prompts)} prompts with n = {self._params.n} are more than {most} completions"
            )
        self._scores_prompts = bool(body.echo) and body.logprobs is not None
        self._prompts: list[_Given] = []

    async def read_prompts(self) -> None:
        """
        Raises:
            InvalidRequest: a prompt is empty or too long; said before another one is answered.
        """
        self._prompts = [await self._read(prompt) for prompt in self._body.prompts]

    async def _read(self, given: str | list[int]) -> _Given:
        tokenizer, longest = self._engine.tokenizer, self._engine.card.max_sequence_tokens
        token_ids = await self._engine.encode(Prompt.of(given)) if isinstance(given, str) else given
        if not token_ids:
            raise InvalidRequest("prompt must not be empty")
        if len(token_ids) > longest:
            raise PromptTooLong(f"the prompt has {len(token_ids)} tokens; a sequence may have {longest}")
        if isinstance(given, str):
            return _Given(Prompt((Tokens(tuple(token_ids)),)), given, token_ids)
        text = tokenizer.decode(given, skip_special_tokens=False) if self._body.echo else ""
        return _Given(Prompt.of(given), text, given)

    # ---------------------------------------------------------------------------------------------- at once

    async def answer(self, call: Call) -> TextCompletion:
        found = await all_of([self._complete(given, call) for given in self._prompts])
        usage = self._new_usage()
        choices: list[CompletionChoice] = []
        for prompt_index, (echo, completions) in enumerate(found):
            for completion in completions:
                usage.add(len(completion.token_ids))
                usage.end(prompt_index, self._cached_tokens(completion))
                whole = Chunk(
                    completion.text, completion.token_ids, logprobs=completion.logprobs, completion=completion
                )
                choice = self._choice(len(choices), prompt_index, echo).next(whole)
                assert choice is not None, "the last chunk of a completion says why it ended"
                choices.append(choice)
        self._facts |= usage.facts()
        return {**self._frame(call), "choices": choices, "usage": usage.body()}

    async def _complete(self, given: _Given, call: Call) -> tuple[_Echo, list[Completion]]:
        echo = await self._echo(given, call.options)
        return echo, await self._engine.generate(given.prompt, self._params, options=call.options)

    async def _echo(self, given: _Given, options: RequestOptions) -> _Echo:
        if not self._body.echo:
            return _Echo()
        if not self._scores_prompts:
            return _Echo(given.text)
        top: tuple[tuple[TopLogprob, ...], ...] = ((),) * len(given.token_ids)
        logprobs: tuple[float | None, ...] = (None,)  # of the first token: nothing stands before it
        if len(given.token_ids) > 1:
            [score] = await self._engine.score(
                Prompt((Tokens(tuple(given.token_ids[:1])),)),
                [given.token_ids[1:]],
                top_logprobs=self._params.logprobs or 0,
                options=options,
            )
            logprobs += score.logprobs
            top = top if score.top is None else ((), *score.top)
        return _Echo(given.text, prompt_logprobs(given.text, given.token_ids, logprobs, top, self._vocab))

    # -------------------------------------------------------------------------------------------- as it comes

    async def events(self, call: Call) -> Events:
        options = self._body.stream_options
        tells_usage = bool(options and options.include_usage)
        tells_usage_always = bool(options and options.continuous_usage_stats)
        usage = self._new_usage()
        frame = self._frame(call)
        if tells_usage:
            frame["usage"] = None
        choices: dict[int, _StreamedChoice] = {}
        echoes = await all_of([self._echo(given, call.options) for given in self._prompts])
        streams = [
            self._engine.stream(given.prompt, self._params, options=call.options) for given in self._prompts
        ]
        async with aclosing(merged(streams)) as chunks:
            async for prompt_index, chunk in chunks:
                usage.add(len(chunk.token_ids))
                if chunk.completion is not None:
                    usage.end(prompt_index, self._cached_tokens(chunk.completion))
                index = prompt_index * self._params.n + chunk.index
                if index not in choices:
                    choices[index] = self._choice(index, prompt_index, echoes[prompt_index])
                choice = choices[index].next(chunk)
                if choice is not None:
                    event: TextCompletion = {**frame, "choices": [choice]}
                    if tells_usage_always:
                        event["usage"] = usage.body()
                    yield encoded(event)
        self._facts |= usage.facts()
        if tells_usage:
            yield encoded({**frame, "usage": usage.body()})

    # --------------------------------------------------------------------------------------------------- both

    def _frame(self, call: Call) -> TextCompletion:
        return {
            "id": f"cmpl-{call.request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [],
        }

    def _choice(self, index: int, prompt_index: int, echo: _Echo) -> _StreamedChoice:
        prompt_ids = self._prompts[prompt_index].token_ids if self._body.return_token_ids else None
        return _StreamedChoice(index, echo, self._vocab, prompt_ids)

    def _new_usage(self) -> UsageCount:
        return UsageCount(sum(len(given.token_ids) for given in self._prompts))

    def _cached_tokens(self, completion: Completion) -> int:
        # A prompt that is scored is computed as a whole, whatever of it the completion then finds.
        return 0 if self._scores_prompts else completion.usage.cached_tokens


class _StreamedChoice:
    """One completion, in one chunk or in many."""

    def __init__(self, index: int, echo: _Echo, vocab: Vocab, prompt_ids: list[int] | None) -> None:
        self._index = index
        self._echo = echo
        self._writer = CompletionLogprobsWriter(vocab, len(echo.text))
        self._prompt_ids = prompt_ids
        self._has_begun = False

    def next(self, chunk: Chunk) -> CompletionChoice | None:
        """What a chunk adds; ``None`` if that is nothing a client could see."""
        text, completion = chunk.text, chunk.completion
        logprobs = None if chunk.logprobs is None else self._writer.write(chunk.logprobs)
        is_first, self._has_begun = not self._has_begun, True
        if is_first:
            text = self._echo.text + text
            if logprobs is not None and self._echo.logprobs is not None:
                logprobs = joined(self._echo.logprobs, logprobs)
        elif not (text or completion or chunk.logprobs or self._prompt_ids):
            return None
        choice: CompletionChoice = {
            "index": self._index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": None,
        }
        if completion is not None:
            choice["finish_reason"] = "length" if completion.finish_reason == "length" else "stop"
            choice["stop_reason"] = completion.stop_reason
        if self._prompt_ids is not None:
            choice["token_ids"] = list(chunk.token_ids)
            if is_first:
                choice["prompt_token_ids"] = self._prompt_ids
        return choice
