"""What clients get: the shapes of OpenAI's interface, as the document of the interface shows them.

They are plain dictionaries, which msgspec encodes. Fields that are not required are left out where they would
say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

import msgspec
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

_encoder = msgspec.json.Encoder()

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class UsageBody(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Alternative(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Alternative):
    top_logprobs: list[Alternative]


class ChatLogprobs(TypedDict):
    content: list[ChatLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionCall(TypedDict):
    name: str
    arguments: str


class ToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: NotRequired[list[int]]


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    prompt_token_ids: NotRequired[list[int]]


class FunctionCallDelta(TypedDict):
    name: NotRequired[str]
    arguments: str


class ToolCallDelta(TypedDict):
    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionCallDelta


class Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    tool_calls: list[ToolCallDelta]


class ChatChunkChoice(TypedDict):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: NotRequired[str | int | None]
    token_ids: NotRequired[list[int]]


class ChatCompletionChunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[UsageBody | None]
    prompt_token_ids: NotRequired[list[int]]


class CompletionChoice(TypedDict):
    """Of a whole completion, and of a piece of one: its ``finish_reason`` is ``null`` until the last."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: NotRequired[str | int | None]
    token_ids: NotRequired[list[int]]
    prompt_token_ids: NotRequired[list[int]]


class TextCompletion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[UsageBody | None]


class ModelBody(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelBody]


def encoded(value: Mapping[str, Any]) -> bytes:
    """JSON text of a response or an event."""
    return _encoder.encode(value)


def json_response(value: Mapping[str, Any]) -> Response:
    return Response(_encoder.encode(value), media_type="application/json")


def documented(shape: type, *, chunk: type | None = None) -> dict[int | str, dict[str, Any]]:
    """What the document of the interface says about a route's success."""
    found: dict[str, Any] = {"model": shape, "description": "OK"}
    if chunk is not None:
        description = f"Server-sent events, each a {chunk.__name__} as JSON; the last is [DONE]."
        found["content"] = {"text/event-stream": {"schema": {"type": "string", "description": description}}}
    return {200: found}
