"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ramet.errors import InvalidRequest
from ramet.server.bodies import BodyRoute
from ramet.server.calls import Call
from ramet.server.errors import error_responses
from ramet.server.openai.logprobs import chat_logprobs
from ramet.server.openai.responses import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    Delta,
    FinishReason,
    Message,
    documented,
    encoded,
    json_response,
)
from ramet.server.openai.sampling import constraint_of, sampling_params
from ramet.server.openai.schemas import ChatBody
from ramet.server.openai.tool_answers import AnswerReader
from ramet.server.openai.tools import ToolUse
from ramet.server.openai.usage import UsageCount
from ramet.server.service import Service, ServiceDep
from ramet.server.streaming import Events
from ramet.server.together import closed_after
from ramet.tokenizer.vocab import Vocab
from ramet.types import Chunk, Completion, Prompt, Tokens

router = APIRouter(route_class=BodyRoute)


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={**documented(ChatCompletion, chunk=ChatCompletionChunk), **error_responses(404)},
    tags=["openai"],
)
async def create_chat_completion(request: Request, body: ChatBody, service: ServiceDep) -> Response:
    """Answer a conversation."""
    service.check_model(body.model)
    tools = ToolUse(body, service.engine.tokenizer)
    chat = _Chat(request, body, service, tools, await service.engine.encode(tools.prompt()))
    options = service.options(request, cache_salt=body.cache_salt, priority=body.priority)
    if body.stream:
        return await service.stream(request, options, chat.events, request_id=body.request_id)
    return json_response(await service.answer(request, options, chat.answer, request_id=body.request_id))


class _Chat:
    """One request: what it asks of the engine, and how it is answered."""

    def __init__(
        self, request: Request, body: ChatBody, service: Service, tools: ToolUse, prompt_ids: list[int]
    ) -> None:
        self._facts: dict[str, object] = request.state.log
        self._body = body
        self._engine = service.engine
        self._model = service.model_name
        self._vocab = service.engine.tokenizer.vocab
        self._tools = tools
        self._prompt_ids = prompt_ids
        self._prompt = Prompt((Tokens(tuple(prompt_ids)),))
        most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        self._params = sampling_params(
            body,
            max_tokens=service.engine.card.max_sequence_tokens if most is None else most,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            constraint=self._tools.constraint(constraint_of(body)),
        )
        if self._params.n > service.config.max_prompts:
            raise InvalidRequest(f"n must be at most {service.config.max_prompts}, got {self._params.n}")

    # ---------------------------------------------------------------------------------------------- at once

    async def answer(self, call: Call) -> ChatCompletion:
        completions = await self._engine.generate(self._prompt, self._params, options=call.options)
        usage = UsageCount(len(self._prompt_ids))
        for completion in completions:
            usage.add(len(completion.token_ids))
            usage.end(0, completion.usage.cached_tokens)
        self._facts |= usage.facts()
        answer: ChatCompletion = {
            "id": f"chatcmpl-{call.request_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [self._choice(index, completion) for index, completion in enumerate(completions)],
            "usage": usage.body(),
        }
        if self._body.return_token_ids:
            answer["prompt_token_ids"] = self._prompt_ids
        return answer

    def _choice(self, index: int, completion: Completion) -> ChatChoice:
        reader = self._tools.reader()
        content, calls = (completion.text, []) if reader is None else reader.read(completion)
        message: Message = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        choice: ChatChoice = {
            "index": index,
            "message": message,
            "logprobs": None
            if completion.logprobs is None
            else chat_logprobs(completion.logprobs, self._vocab),
            "finish_reason": _finish_reason(completion, reader),
            "stop_reason": completion.stop_reason,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = list(completion.token_ids)
        return choice

    # -------------------------------------------------------------------------------------------- as it comes

    async def events(self, call: Call) -> Events:
        body = self._body
        options = body.stream_options
        tells_usage = bool(options and options.include_usage)
        tells_usage_always = bool(options and options.continuous_usage_stats)
        usage = UsageCount(len(self._prompt_ids))
        frame: ChatCompletionChunk = {
            "id": f"chatcmpl-{call.request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._model,
            "choices": [],
        }
        if tells_usage:
            frame["usage"] = None
        first: ChatCompletionChunk = frame.copy()
        if body.return_token_ids:
            first["prompt_token_ids"] = self._prompt_ids
        choices = [
            _StreamedChoice(index, self._tools.reader(), self._vocab, body) for index in range(self._params.n)
        ]
        stream = self._engine.stream(self._prompt, self._params, options=call.options)
        async with closed_after(stream) as chunks:
            async for chunk in chunks:
                usage.add(len(chunk.token_ids))
                if chunk.completion is not None:
                    usage.end(0, chunk.completion.usage.cached_tokens)
                choice = choices[chunk.index].next(chunk)
                if choice is not None:
                    event, first = first, frame
                    event = {**event, "choices": [choice]}
                    if tells_usage_always:
                        event["usage"] = usage.body()
                    yield encoded(event)
        self._facts |= usage.facts()
        if tells_usage:
            yield encoded({**frame, "usage": usage.body()})


class _StreamedChoice:
    """One answer as it comes."""

    def __init__(self, index: int, reader: AnswerReader | None, vocab: Vocab, body: ChatBody) -> None:
        self._index = index
        self._reader = reader
        self._vocab = vocab
        self._returns_token_ids = bool(body.return_token_ids)
        self._has_begun = False

    def next(self, chunk: Chunk) -> ChatChunkChoice | None:
        """What a chunk adds; ``None`` if that is nothing a client could see."""
        completion = chunk.completion
        delta: Delta
        if self._reader is not None:
            delta = self._reader.delta(chunk.text, chunk.token_ids, is_last=completion is not None)
        else:
            delta = {"content": chunk.text} if chunk.text else {}
        if not self._has_begun:
            self._has_begun = True
            delta = {"role": "assistant", "content": "", **delta}
        elif not (delta or completion or chunk.logprobs or self._returns_token_ids):
            return None
        choice: ChatChunkChoice = {
            "index": self._index,
            "delta": delta,
            "logprobs": None if chunk.logprobs is None else chat_logprobs(chunk.logprobs, self._vocab),
            "finish_reason": None,
        }
        if completion is not None:
            choice["finish_reason"] = _finish_reason(completion, self._reader)
            choice["stop_reason"] = completion.stop_reason
        if self._returns_token_ids:
            choice["token_ids"] = list(chunk.token_ids)
        return choice


def _finish_reason(completion: Completion, reader: AnswerReader | None) -> FinishReason:
    if completion.finish_reason == "length":
        return "length"
    return "tool_calls" if reader is not None and reader.num_calls else "stop"
