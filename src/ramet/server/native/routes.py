"""Routes of the native interface that ask the engine for something: text, scores, tokens, cached prefixes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter
from msgspec import UNSET
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from ramet.errors import InvalidRequest
from ramet.server.bodies import BodyRoute
from ramet.server.calls import Call
from ramet.server.errors import error_responses
from ramet.server.native.bodies import (
    Asked,
    CachePrefixBody,
    ConcatenateBody,
    DetokenizeBody,
    GenerateBody,
    ScoreBody,
    TokenizeBody,
    appended,
    prompt_of,
    prompts_of,
)
from ramet.server.native.control import control_routes
from ramet.server.native.generation import Generation
from ramet.server.service import Service, ServiceDep
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.types import Prompt, Score, Text, Tokens
from ramet.wire import Output, ScoreOutput, Scores
from ramet.wire.outputs import entries
from ramet.wire.schema import schema_of

T = TypeVar("T")


class CachedPrefix(BaseModel):
    """A prefix whose KV has been computed."""

    id: str
    prompt_tokens: int
    lease_seconds: float


class Tokenized(TypedDict):
    """Token ids, of one text or of each."""

    tokens: list[int] | list[list[int]]
    count: int | list[int]
    max_model_len: int


class Detokenized(TypedDict):
    """Text, of one list of token ids or of each."""

    text: str | list[str]


def native_routes() -> APIRouter:
    router = APIRouter(tags=["native"], route_class=BodyRoute)
    router.include_router(control_routes())

    @router.post(
        "/generate",
        response_class=Response,
        responses={
            200: {
                "description": "An output; a list of them for a list or n > 1; or events of one output each.",
                "content": {
                    "application/json": {"schema": schema_of(Output | list[Output])},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            },
            **error_responses(),
        },
    )
    async def generate(body: GenerateBody, request: Request, service: ServiceDep) -> Response:
        """Complete one prompt or many."""
        generation = Generation(
            service.engine, body, request.state.log, max_prompts=service.config.max_prompts
        )
        if body.stream:
            options = service.options(request, cache_salt=body.cache_salt, priority=body.priority)
            return await service.stream(request, options, generation.events, request_id=body.rid)
        return _json(await _answer(service, request, body, generation.outputs))

    @router.post(
        "/score",
        response_class=Response,
        responses={
            200: {
                "description": "A score for each continuation, in order.",
                "content": {"application/json": {"schema": schema_of(Scores)}},
            },
            **error_responses(),
        },
    )
    async def score(body: ScoreBody, request: Request, service: ServiceDep) -> Response:
        """The logprobs of each continuation after the prompt, which may be empty (`"prompt": []`)."""
        prompt = prompt_of(body)

        async def work(call: Call) -> Scores:
            started = time.monotonic()
            scores = await service.engine.score(
                prompt, body.continuations, top_logprobs=body.top_logprobs, options=call.options
            )
            tokenizer = service.engine.tokenizer
            return Scores(
                id=call.request_id,
                scores=[_score_output(score, tokenizer, body.top_logprobs > 0) for score in scores],
                e2e_latency=round(time.monotonic() - started, 6),
            )

        return _json(msgspec.json.encode(await _answer(service, request, body, work)))

    @router.post("/cache_prefix", responses=error_responses())
    async def cache_prefix(body: CachePrefixBody, request: Request, service: ServiceDep) -> CachedPrefix:
        """Compute and cache the KV of a prompt: requests that begin with it will follow."""
        return await _cache(service, request, body, prompt_of(body))

    @router.post("/concate_and_append_request", responses=error_responses())
    async def concate_and_append_request(
        body: ConcatenateBody, request: Request, service: ServiceDep
    ) -> CachedPrefix:
        """Append what branches of a prompt have appended to it, in order; compute and cache the whole."""
        return await _cache(service, request, body, appended(prompt_of(body), body.branches))

    @router.post("/tokenize", response_model=Tokenized, responses=error_responses())
    async def tokenize(body: TokenizeBody, request: Request, service: ServiceDep) -> Response:
        """The token ids of a text, of each of several, or of a prompt."""
        tokenizer, longest = service.engine.tokenizer, service.engine.card.max_sequence_tokens
        prompts, many = prompts_of(body, service.config.max_prompts)

        def found() -> Tokenized:
            ids = [_token_ids(prompt, tokenizer, body.add_special_tokens) for prompt in prompts]
            counts = [len(each) for each in ids]
            request.state.log["tokens"] = sum(counts)
            return {
                "tokens": ids if many else ids[0],
                "count": counts if many else counts[0],
                "max_model_len": longest,
            }

        return _json(await _on_a_thread(service, request, found))

    @router.post("/detokenize", response_model=Detokenized, responses=error_responses())
    async def detokenize(body: DetokenizeBody, request: Request, service: ServiceDep) -> Response:
        """The text of token ids, or of each of several lists of them."""
        tokens: list[Any] = body.tokens
        many = bool(tokens) and isinstance(tokens[0], list)
        decode, skip = service.engine.tokenizer.decode, body.skip_special_tokens

        def found() -> Detokenized:
            lists = tokens if many else [tokens]
            texts = [decode(each, skip_special_tokens=skip) for each in lists]
            request.state.log["tokens"] = sum(map(len, lists))
            return {"text": texts if many else texts[0]}

        return _json(await _on_a_thread(service, request, found))

    return router


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


async def _answer(service: Service, request: Request, body: Asked, work: Callable[[Call], Awaitable[T]]) -> T:
    options = service.options(request, cache_salt=body.cache_salt, priority=body.priority)
    return await service.answer(request, options, work, request_id=body.rid)


async def _on_a_thread(service: Service, request: Request, work: Callable[[], object]) -> bytes:
    """The answer, as JSON, of a call that asks no engine and may take long."""

    async def awaited(call: Call) -> bytes:
        return await asyncio.to_thread(lambda: msgspec.json.encode(work()))

    return await service.answer(request, service.options(request, cache_salt=None, priority=None), awaited)


async def _cache(service: Service, request: Request, body: CachePrefixBody, prompt: Prompt) -> CachedPrefix:
    most = service.config.max_lease_seconds
    if body.lease_seconds > most:
        raise InvalidRequest(f"lease_seconds may be at most {most:g} here, got {body.lease_seconds:g}")

    async def work(call: Call) -> CachedPrefix:
        token_ids = await service.engine.encode(prompt)
        await service.engine.cache_prefix(
            Prompt((Tokens(tuple(token_ids)),)), lease_seconds=body.lease_seconds, options=call.options
        )
        request.state.log["prompt_tokens"] = len(token_ids)
        return CachedPrefix(
            id=call.request_id, prompt_tokens=len(token_ids), lease_seconds=body.lease_seconds
        )

    return await _answer(service, request, body, work)


def _score_output(score: Score, tokenizer: Tokenizer, with_top: bool) -> ScoreOutput:
    return ScoreOutput(
        text=score.text,
        token_ids=score.token_ids,
        tokens=[tokenizer.vocab.text(token_id) for token_id in score.token_ids],
        logprobs=score.logprobs,
        logprob_sum=math.fsum(logprob for logprob in score.logprobs if logprob is not None),
        prompt_tokens=score.usage.prompt_tokens,
        cached_tokens=score.usage.cached_tokens,
        top_logprobs=[entries(top, True) for top in score.top] if with_top and score.top else UNSET,
    )


def _token_ids(prompt: Prompt, tokenizer: Tokenizer, add_special_tokens: bool) -> list[int]:
    match prompt.parts:
        case (Text(text),) if not add_special_tokens:
            return tokenizer.encode(text, parse_special=True)
        case _:
            return tokenizer.encode_prompt(prompt)
