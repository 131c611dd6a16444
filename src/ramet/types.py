"""The values that cross the text seam: prompts, sampling parameters, completions. All of them are frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias, TypedDict, cast, get_args

from ramet.constraints import Constraint, check_constraint
from ramet.errors import InvalidRequest

FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]
Role: TypeAlias = Literal["system", "user", "assistant"]

MAX_TOP_LOGPROBS = 100
MAX_SEED = 2**63 - 1


# -------------------------------------------------------------------------------------------- sampling


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments accepted wherever sampling is configured; see `SamplingParams`."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    stop_regex: str | Sequence[str]
    ignore_eos: bool
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int | None
    logprobs: int | None
    n: int
    constraint: Constraint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to generate: the one list of knobs, in OpenAI's words.

    Attributes:
        max_tokens: most tokens to generate. 0 computes and caches the prompt and generates nothing.
        min_tokens: EOS, ``stop`` and ``stop_token_ids`` are not honoured before this many tokens.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probability reaches this, in (0, 1].
        top_k: keep the k likeliest tokens; -1 (or 0) keeps all.
        min_p: drop tokens less likely than this fraction of the likeliest, in [0, 1].
        stop: strings that end the text; the text is cut before the match.
        stop_token_ids: tokens that end generation, besides the model's own EOS.
        stop_regex: like ``stop``, as regular expressions.
        ignore_eos: keep generating after EOS.
        frequency_penalty: subtracted per occurrence in the output, in [-2, 2].
        presence_penalty: subtracted once if the token occurs in the output, in [-2, 2].
        repetition_penalty: divides (multiplies, if negative) the logit of tokens seen in prompt or output.
        seed: same seed, same request: same tokens. ``None`` takes one from the engine's own sequence.
        logprobs: ``None`` for none, 0 for the sampled token's, k for the k likeliest besides. They are
            of the model's own distribution, before temperature and penalties.
        n: number of completions of the prompt.
        constraint: what the text must be. It ends where no token can follow, or with EOS where it may end.

    Raises:
        InvalidRequest: a value has the wrong type or lies outside its range.
    """

    max_tokens: int = 128
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    stop_regex: tuple[str, ...] = ()
    ignore_eos: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    n: int = 1
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "stop_token_ids", "stop_regex"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        for name in ("stop", "stop_regex"):
            for value in getattr(self, name):
                if not isinstance(value, str):
                    raise InvalidRequest(f"{name} must hold strings, got {type(value).__name__}")
                if not value:
                    raise InvalidRequest(f"{name} must not contain an empty string")
        for token_id in self.stop_token_ids:
            _check_int("stop_token_ids", token_id, 0)
        _check_int("max_tokens", self.max_tokens, 0)
        _check_int("min_tokens", self.min_tokens, 0)
        if self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})"
            )
        _check_int("top_k", self.top_k, -1)
        _check_int("n", self.n, 1)
        _check_float("temperature", self.temperature, 0.0, 100.0)
        _check_float("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidRequest("top_p must be greater than 0")
        _check_float("min_p", self.min_p, 0.0, 1.0)
        _check_float("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_float("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_float("repetition_penalty", self.repetition_penalty, 0.0, 100.0)
        if self.repetition_penalty == 0.0:
            raise InvalidRequest("repetition_penalty must be greater than 0")
        if not isinstance(self.ignore_eos, bool):
            raise InvalidRequest(f"ignore_eos must be a bool, got {type(self.ignore_eos).__name__}")
        if self.seed is not None:
            _check_int("seed", self.seed, 0, MAX_SEED)
        if self.logprobs is not None:
            _check_int("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)
        check_constraint(self.constraint)

    def replace(self, **given: Any) -> Self:
        """A copy with the given fields changed; ``defaults < program < call`` is three of these.

        Raises:
            InvalidRequest: an unknown field, or a value outside its range.
        """
        unknown = [name for name in given if name not in SAMPLING_FIELDS]
        if unknown:
            raise InvalidRequest(unknown_parameter(unknown[0]))
        return replace(self, **given)


SAMPLING_FIELDS: frozenset[str] = frozenset(field.name for field in fields(SamplingParams))


def unknown_parameter(name: str) -> str:
    """The message for a sampling parameter that does not exist."""
    hint = "; did you mean max_tokens?" if name == "max_new_tokens" else ""
    return f"unknown sampling parameter {name!r}{hint} (known: {', '.join(sorted(SAMPLING_FIELDS))})"


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, (str, int)):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(value)
    raise InvalidRequest(f"expected a string or a list, got {type(value).__name__}")


def _check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer, got {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidRequest(f"{name} must be {bounds}, got {value}")


def _check_float(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequest(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, got {value}")


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
                _check_int("prompt token id", token_id, 0)
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
