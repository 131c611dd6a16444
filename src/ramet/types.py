"""The values that cross the text seam: prompts, options, completions, scores. All of them are frozen.

How to generate is in `ramet.sampling_params`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from ramet.checks import check_int
from ramet.errors import InvalidRequest

FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]
Role: TypeAlias = Literal["system", "user", "assistant"]


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
    """A message of a role begins here."""

    role: Role


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
    raise InvalidRequest(f"{field} must be system, user or assistant, got {value!r}")


Part: TypeAlias = Text | Tokens | Generated | RoleBegin | RoleEnd


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
            token_ids: list[int] = []
            for token_id in value:
                check_int("prompt token id", token_id, 0)
                token_ids.append(int(token_id))
            return cls((Tokens(tuple(token_ids)),))
        raise InvalidRequest(f"prompt must be a string or a list of token ids, got {type(value).__name__}")

    @classmethod
    def from_messages(cls, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """A chat: ``[{"role": "user", "content": "…"}, …]``. The assistant's turn is left open.

        Raises:
            InvalidRequest: a message lacks its role or content, or the role is unknown.
        """
        parts: list[Part] = []
        for index, message in enumerate(messages):
            role = as_role(message.get("role"), f"messages[{index}].role")
            content = message.get("content")
            if not isinstance(content, str):
                raise InvalidRequest(f"messages[{index}].content must be a string")
            parts += [RoleBegin(role), Text(content), RoleEnd(role)]
        if not parts:
            raise InvalidRequest("messages must not be empty")
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

    The first logprob is ``None`` if nothing stands before it (an empty prompt and no BOS).
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    usage: Usage
