"""What clients of the native interface send, checked; and the prompts in it.

A field that is not known is refused, unless it asks for nothing: clients of other servers send many of those.
Sampling parameters and parts of prompts are checked by `ramet.wire`. Must not know engines or responses.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, get_args

from pydantic import ConfigDict, Field, WithJsonSchema

from ramet.errors import InvalidRequest
from ramet.sampling_params import MAX_TOP_LOGPROBS
from ramet.server.bodies import FAIL_FAST, Body, no_collections
from ramet.types import MAX_OPTION_CHARACTERS, MAX_PRIORITY, Prompt, Role, Text, Tokens
from ramet.wire import decode_prompt
from ramet.wire.schema import params_schema, part_schema

MAX_CONTINUATIONS = 1024
MAX_BRANCHES = 1024
"""Most texts to append to a prompt."""

_MESSAGE = {
    "type": "object",
    "description": "A message, as in a chat.",
    "properties": {"role": {"enum": list(get_args(Role))}, "content": {"type": "string"}},
    "required": ["role"],
}
TokenIds: TypeAlias = Annotated[list[Annotated[int, Field(ge=0)]], FAIL_FAST]
Parts: TypeAlias = Annotated[
    list[Annotated[dict[str, Any], WithJsonSchema({"anyOf": [part_schema(), _MESSAGE]})]], FAIL_FAST
]
Sampling: TypeAlias = Annotated[dict[str, Any], WithJsonSchema(params_schema())]


class NativeBody(Body):
    """A null is as if it were not there."""

    @classmethod
    def _asks_nothing(cls, name: str, value: object) -> bool:
        return value is None or (name not in cls.model_fields and value in (False, "", [], {}))


class Asked(NativeBody):
    """Who asks, and how soon it is wanted."""

    rid: str | None = Field(None, min_length=1, max_length=128, description="Names the request for an abort.")
    priority: int | None = Field(
        None, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="Requests of a lower value are admitted first."
    )
    cache_salt: str | None = Field(
        None,
        max_length=MAX_OPTION_CHARACTERS,
        description="Cached prefixes are shared only between requests of the same salt.",
    )


class Prompted(NativeBody):
    """One of ``text``, ``input_ids`` and ``prompt``."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [name]} for name in ("text", "input_ids", "prompt")]}
    )
    text: str | Annotated[list[str], FAIL_FAST] | None = None
    input_ids: TokenIds | Annotated[list[TokenIds], FAIL_FAST] | None = None
    prompt: str | Parts | None = Field(
        None, description="Text, a list of parts (see the documentation), or a list of messages."
    )


class GenerateBody(Asked, Prompted):
    sampling_params: Sampling | Annotated[list[Sampling], FAIL_FAST] = Field({})
    stream: bool = False
    incremental: bool = Field(False, description="Events of a stream carry what is new, not the text so far.")
    return_logprob: bool = False
    logprob_start_len: int = Field(
        -1, ge=-1, description="Where logprobs of the prompt begin; -1: none of the prompt."
    )
    top_logprobs_num: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)
    return_text_in_logprobs: bool = False


class ScoreBody(Asked, Prompted):
    continuations: Annotated[
        list[str | TokenIds], Field(min_length=1, max_length=MAX_CONTINUATIONS, fail_fast=True)
    ]
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)


class CachePrefixBody(Asked, Prompted):
    lease_seconds: float = Field(0.0, ge=0.0, description="How long its KV is kept, if there is room.")


class ConcatenateBody(CachePrefixBody):
    branches: Annotated[list[str | Parts], Field(min_length=1, max_length=MAX_BRANCHES, fail_fast=True)] = (
        Field(description="What each branch has appended, in the order in which it is to follow the prompt.")
    )


class AbortBody(NativeBody):
    rid: str | None = None
    abort_all: bool = False


class TokenizeBody(Prompted):
    add_special_tokens: bool = Field(True, description="Put BOS first, if the model wants it.")


class DetokenizeBody(NativeBody):
    tokens: TokenIds | Annotated[list[TokenIds], FAIL_FAST]
    skip_special_tokens: bool = True


@no_collections()
def prompts_of(body: Prompted, most: int) -> tuple[list[Prompt], bool]:
    """The prompts of a body, and whether they were given as a list.

    Raises:
        InvalidRequest: none, more than one kind, more than ``most``, or something that is no prompt.
    """
    given = [name for name in ("text", "input_ids", "prompt") if getattr(body, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(f"give one of text, input_ids and prompt, got {' and '.join(given) or 'none'}")
    if body.prompt is not None:
        return [_from_parts(body.prompt)], False
    several = _several(body)
    if several is None:
        return [_of(body.text if body.text is not None else body.input_ids)], False
    if not 0 < len(several) <= most:
        raise InvalidRequest(f"{given[0]} must hold 1 to {most} prompts, got {len(several)}")
    return [_of(each) for each in several], True


def prompt_of(body: Prompted) -> Prompt:
    """The prompt of a body that takes one.

    Raises:
        InvalidRequest: it has none, several, or something that is no prompt.
    """
    prompts, many = prompts_of(body, 1)
    if many:
        raise InvalidRequest("this takes one prompt, got a list")
    return prompts[0]


def appended(prompt: Prompt, branches: list[str | Parts]) -> Prompt:
    """A prompt, and what branches of it have appended, one after the other.

    Raises:
        InvalidRequest: something that is no part.
    """
    for index, branch in enumerate(branches):
        part = (
            Prompt((Text(branch),))
            if isinstance(branch, str)
            else decode_prompt(branch, f"branches[{index}]")
        )
        prompt = prompt.append(*part.parts)
    return prompt


def _several(body: Prompted) -> list[str] | list[list[int]] | None:
    if body.text is not None:
        return body.text if isinstance(body.text, list) else None
    ids: Any = body.input_ids
    return ids if ids and isinstance(ids[0], list) else None


def _of(value: Any) -> Prompt:
    # Not by `Prompt.of`: that looks at each token id, which has been done. An engine refuses an empty one.
    return Prompt((Text(value),)) if isinstance(value, str) else Prompt((Tokens(tuple(value)),))


def _from_parts(value: str | Parts) -> Prompt:
    if isinstance(value, str):
        return Prompt((Text(value),))
    if value and "type" not in value[0]:
        return Prompt.from_messages(value)
    return decode_prompt(value)
