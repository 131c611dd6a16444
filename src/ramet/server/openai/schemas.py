"""What clients send: the bodies of OpenAI's interface, checked.

Fields that change nothing here are ignored, and so are those that ask for what happens anyway. Every other
unknown field is refused by its name: it might have been meant to change the output. Ranges that
`SamplingParams` checks as well stand here so that the document of the interface shows them. Must not know:
engines, prompts, responses.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from ramet.sampling_params import (
    LEAST_REPETITION_PENALTY,
    MAX_BIASED_TOKENS,
    MAX_STOPS,
    MAX_TOP_K,
    MAX_TOP_LOGPROBS,
)
from ramet.server.bodies import FAIL_FAST, Body
from ramet.server.openai.fields import IGNORED, NEUTRAL, Message, Name, Strings, Texts, TokenIds
from ramet.types import MAX_OPTION_CHARACTERS

MAX_TOOLS = 128
MAX_GRAMMAR_CHARACTERS = 1 << 16


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # there is none


class NamedSchema(Body):
    name: str = Field(max_length=256)
    description: str | None = None
    json_schema: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and that with it")
        return self


class StructuredOutputs(Body):
    """vLLM's name for constraints."""

    model_config = ConfigDict(populate_by_name=True)
    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Texts | None = None
    grammar: str | None = Field(None, max_length=MAX_GRAMMAR_CHARACTERS)
    json_object: bool | None = None


class GenerationBody(Body):
    """What chats and completions share. A field that is ``null`` is as good as absent."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: Strings | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = Field(None, max_length=MAX_BIASED_TOKENS)
    # what users of open engines expect besides
    top_k: int | None = Field(None, ge=-1, le=MAX_TOP_K)
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=LEAST_REPETITION_PENALTY, le=100)
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOPS)] | None = None
    stop_regex: Strings | None = None
    response_format: ResponseFormat | None = None
    regex: str | None = None
    json_schema: dict[str, Any] | bool | str | None = None
    ebnf: str | None = Field(None, max_length=MAX_GRAMMAR_CHARACTERS)
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    guided_grammar: str | None = Field(None, max_length=MAX_GRAMMAR_CHARACTERS)
    structured_outputs: StructuredOutputs | None = None
    cache_salt: str | None = Field(None, max_length=MAX_OPTION_CHARACTERS)
    priority: int | None = None
    request_id: str | None = Field(None, min_length=1, max_length=128)
    return_token_ids: bool | None = None

    also_neutral: ClassVar[dict[str, tuple[object, ...]]] = {}

    @classmethod
    def _asks_nothing(cls, name: str, value: object) -> bool:
        if name in IGNORED:
            return True
        if name in cls.model_fields or not (name in NEUTRAL or name in cls.also_neutral):
            return False
        return value is None or value in NEUTRAL.get(name, ()) or value in cls.also_neutral.get(name, ())

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _has_few_tokens(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > MAX_BIASED_TOKENS:  # before each value is looked at
            raise ValueError(f"may name at most {MAX_BIASED_TOKENS} tokens, got {len(given)}")
        return given

    @field_validator("logit_bias")
    @classmethod
    def _has_token_ids(cls, given: dict[str, float] | None) -> dict[str, float] | None:
        for name in given or ():
            if not (name.isascii() and name.isdecimal() and len(name) < 10):
                raise ValueError(f"{name!r} is no token id")
        return given

    @model_validator(mode="after")
    def _streams_if_it_says_how(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self


class FunctionDefinition(Body):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: FunctionName


class ChatBody(GenerationBody):
    """``POST /v1/chat/completions``. The messages are checked where they become a prompt."""

    messages: Annotated[list[Message], Field(min_length=1), FAIL_FAST]
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    also_neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        "add_special_tokens": (False,),
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }

    @model_validator(mode="after")
    def _fits_together(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs: true")
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt exclude each other")
        if self.continue_final_message and self.messages[-1].get("role") != "assistant":
            raise ValueError("continue_final_message needs a message of the assistant at the end")
        return self


class CompletionBody(GenerationBody):
    """``POST /v1/completions``."""

    prompt: (
        str
        | Annotated[Texts, Field(min_length=1)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1), FAIL_FAST]
    )
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None
    best_of: int | None = None

    also_neutral: ClassVar[dict[str, tuple[object, ...]]] = {"suffix": ("",)}

    @model_validator(mode="after")
    def _fits_together(self) -> CompletionBody:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of must be n: all completions are returned")
        return self

    @field_validator("prompt", mode="wrap")
    @classmethod
    def _is_one_of_these(cls, given: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(given)
        except ValidationError as error:  # of each member of the union, which tells nobody anything
            kinds = "a string, a list of strings, a list of token ids, or a list of such lists"
            raise ValueError(f"must be {kinds}, none of them empty") from error

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)
