"""The values that cross the text seam: prompts, options, completions, scores. All of them are frozen.

How to generate is in `ramet.sampling_params`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from ramet.checks import check_int, check_ints
from ramet.errors import InvalidRequest, UnsupportedFeature

FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


# --------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True, slots=True)
class Text:
    """Text written by the program. Inside a role it is content, never parsed for special tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, taken as they are."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generated:
    """Text a model wrote, with the tokens it wrote it in, so that a continued prompt keeps its KV.

    ``text`` is what counts. ``token_ids`` may run past it (a stop string, EOS): an encoder keeps the
    longest run of tokens whose bytes are a prefix of the text and encodes the rest of the text itself.
    """

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RoleBegin:
    """A message of a role begins here.

    ``fields`` is what it has besides role and content, as a JSON object for the chat template to read:
    ``tool_calls`` (arguments as objects), ``tool_call_id``, ``name``, ``reasoning_content``.
    """

    role: Role
    fields: str = ""


@dataclass(frozen=True, slots=True)
class RoleEnd:
    """The message of this role ends here."""

    role: Role


def as_role(value: object, field: str) -> Role:
    """``value`` if it names a role.

    Raises:
        InvalidRequest: it does not.
    """
    for role in get_args(Role):
        if value == role:
            return cast(Role, role)
    raise InvalidRequest(f"{field} must be system, user, assistant or tool, got {value!r}")


@dataclass(frozen=True, slots=True)
class TemplateVariables:
    """Variables of the chat template, as a JSON object: ``tools``, and those that only one model knows.

    Where it stands among the parts does not matter. Of one name, the last value counts.
    """

    values: str


Part: TypeAlias = Text | Tokens | Generated | RoleBegin | RoleEnd | TemplateVariables


@dataclass(frozen=True, slots=True)
class Prompt:
    """An immutable sequence of parts. Forking a program copies a reference to one of these."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, value: str | Sequence[int] | Prompt) -> Prompt:
        """A prompt from what callers write: text, token ids, or a prompt.

        Raises:
            InvalidRequest: anything else, or an empty prompt.
        """
        if isinstance(value, Prompt):
            return value
        if isinstance(value, str):
            if not value:
                raise InvalidRequest("prompt must not be empty")
            return cls((Text(value),))
        if isinstance(value, Sequence):
            if not value:
                raise InvalidRequest("prompt must not be empty")
            return cls((Tokens(tuple(check_ints("prompt token id", value, 0))),))
        raise InvalidRequest(f"prompt must be a string or a list of token ids, got {type(value).__name__}")

    @classmethod
    def from_messages(
        cls,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """A chat: ``[{"role": "user", "content": "…"}, …]``. The assistant's turn is left open.

        Messages are as OpenAI has them. Content may be a list of text parts, or absent beside ``tool_calls``;
        a ``developer`` is a ``system``. What else a message may hold is listed at `RoleBegin`; other keys
        are ignored.

        Args:
            messages: the conversation.
            tools: definitions of functions, for templates that know ``tools``.
            template_variables: other variables of the model's own template.

        Raises:
            InvalidRequest: a message lacks its role or content, the role is unknown, a field has the wrong
                type, or what is given is no JSON.
            UnsupportedFeature: content that is no text.
        """
        if not messages:
            raise InvalidRequest("messages must not be empty")
        parts: list[Part] = []
        variables = dict(template_variables or {})
        if tools:
            variables["tools"] = list(tools)
        if variables:
            parts.append(TemplateVariables(_json_text(variables, "tools or template variables")))
        for index, message in enumerate(messages):
            parts += _message_parts(message, f"messages[{index}]")
        return cls((*parts, RoleBegin("assistant")))

    def append(self, *parts: Part) -> Prompt:
        """This prompt with more parts; neighbouring texts become one."""
        merged = list(self.parts)
        for part in parts:
            last = merged[-1] if merged else None
            if isinstance(part, Text) and isinstance(last, Text):
                merged[-1] = Text(last.text + part.text)
            elif not (isinstance(part, Text) and not part.text):
                merged.append(part)
        return Prompt(tuple(merged))

    @property
    def open_role(self) -> Role | None:
        """The role whose message has begun and not ended."""
        for part in reversed(self.parts):
            if isinstance(part, RoleBegin):
                return part.role
            if isinstance(part, RoleEnd):
                return None
        return None

    @property
    def has_roles(self) -> bool:
        return any(isinstance(part, RoleBegin) for part in self.parts)

    def messages(self) -> list[dict[str, str]]:
        """The messages so far, the open one included, as ``{"role", "content"}``.

        Text outside roles is left out.
        """
        messages: list[dict[str, str]] = []
        inside = False
        for part in self.parts:
            if isinstance(part, RoleBegin):
                messages.append({"role": part.role, "content": ""})
                inside = True
            elif isinstance(part, RoleEnd):
                inside = False
            elif inside and isinstance(part, (Text, Generated)):
                messages[-1]["content"] += part.text
        return messages


def _message_parts(message: Mapping[str, Any], where: str) -> list[Part]:
    given = message.get("role")
    role = as_role("system" if given == "developer" else given, f"{where}.role")
    fields: dict[str, Any] = {}
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = message.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{where}.{name} must be a string")
        if value is not None:
            fields[name] = value
    calls = message.get("tool_calls")
    if calls:
        if role != "assistant" or not isinstance(calls, Sequence) or isinstance(calls, str):
            raise InvalidRequest(f"{where}.tool_calls must be a list, in a message of the assistant")
        fields["tool_calls"] = [
            _tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)
        ]
    content = message.get("content")
    text = _content_text("" if calls and content is None else content, f"{where}.content")
    held = () if calls and not text else (Text(text),)
    return [RoleBegin(role, _json_text(fields, where) if fields else ""), *held, RoleEnd(role)]


def _content_text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidRequest(f"{where} must be a string or a list of text parts")
    texts = []
    for index, part in enumerate(content):
        entry = part if isinstance(part, Mapping) else {}
        kind, text = entry.get("type"), entry.get("text")
        if isinstance(kind, str) and kind != "text":
            raise UnsupportedFeature(f"{where}[{index}]: {kind!r} is not supported, only text")
        if kind is None or not isinstance(text, str):
            raise InvalidRequest(f'{where}[{index}] must be {{"type": "text", "text": "…"}}')
        texts.append(text)
    return "".join(texts)


def _tool_call(call: object, where: str) -> dict[str, Any]:
    """A call as templates want it: its arguments are an object. Text that is none stays text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest(f"{where}.function must be an object")
    if not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{where}.function.name must be a string")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):  # a model may have written anything
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _json_text(value: object, where: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where}: not JSON: {error}") from error


# -------------------------------------------------------------------------------------------- options


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """Who asks, and how soon it is wanted. What is generated does not depend on it.

    Attributes:
        client_id: whose request it is; a policy may share the engine out between clients.
        cache_salt: cached prefixes are shared only between requests of the same salt.
        priority: requests of a lower value are admitted first.

    Raises:
        InvalidRequest: a value has the wrong type or lies outside its range.
    """

    client_id: str = ""
    cache_salt: str = ""
    priority: int = 0

    def __post_init__(self) -> None:
        for name in ("client_id", "cache_salt"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > MAX_OPTION_CHARACTERS:
                raise InvalidRequest(f"{name} must be a string of at most {MAX_OPTION_CHARACTERS} characters")
        check_int("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)


MAX_OPTION_CHARACTERS = 256
MAX_PRIORITY = 1_000_000

DEFAULT_OPTIONS = RequestOptions()


# -------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. ``cached_tokens`` of the prompt were not computed again."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One alternative at a position."""

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The logprob of a generated token, and of the likeliest alternatives."""

    token_id: int
    token: str
    logprob: float
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The outcome of one generation.

    Attributes:
        text: the text, cut before a stop string; special tokens are left out.
        token_ids: every token generated, the last ones included even if their text was cut.
        finish_reason: ``stop`` (EOS, a stop token, string or regex) or ``length``; a request that was
            aborted or failed raises instead.
        stop_reason: the stop string, regex or token id that ended it; ``None`` for EOS and ``length``.
        logprobs: one entry per token of ``token_ids``, if asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream. The last one of a completion carries it whole in ``completion``.

    ``index`` tells the completions of ``n > 1`` apart. The ``text`` of the chunks of one index,
    joined, is the text of its completion.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is: one logprob per token.

    The first logprob is ``None`` if nothing stands before it (an empty prompt and no BOS). ``top`` holds the
    likeliest alternatives of each token, if asked for; none for a token without a logprob.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    usage: Usage
    top: tuple[tuple[TopLogprob, ...], ...] | None = None
