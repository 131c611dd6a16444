"""How to generate: the one list of knobs. Everything that is checked about them is checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypedDict

from ramet.checks import check_float, check_int
from ramet.constraints import Constraint, check_constraint
from ramet.errors import InvalidRequest

MAX_TOP_LOGPROBS = 100
MAX_SEED = 2**63 - 1
MAX_LOGIT_BIAS = 100.0
MAX_BIASED_TOKENS = 1024
MAX_STOPS = 64
MAX_STOP_TOKENS = 1024
MAX_STOP_CHARACTERS = 8192
"""Of the strings of ``stop`` together, and of ``stop_regex``: every token is searched for all of them."""
MAX_TOP_K = 2**31 - 1  # what an int32 holds
LEAST_REPETITION_PENALTY = 0.01  # divided by less, a logit may be beyond what a float32 holds


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
    logit_bias: Mapping[int, float]
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
        stop: strings that end the text, at most 64; the text is cut before the match.
        stop_token_ids: tokens that end generation, besides the model's own EOS; at most 1024.
        stop_regex: like ``stop``, as regular expressions.
        ignore_eos: keep generating after EOS.
        frequency_penalty: subtracted per occurrence in the output, in [-2, 2].
        presence_penalty: subtracted once if the token occurs in the output, in [-2, 2].
        repetition_penalty: divides (multiplies, if negative) the logit of tokens seen in prompt or output,
            in [0.01, 100].
        logit_bias: added to the logits of tokens, by token id, in [-100, 100], for at most 1024 tokens. The
            ends ban a token and force it, where a constraint leaves the choice. Kept as sorted pairs.
        seed: same seed, same request: same tokens. ``None`` takes one from the engine's own sequence.
        logprobs: ``None`` for none, 0 for the sampled token's, k for the k likeliest besides. They are
            of the model's own distribution, before temperature, penalties and ``logit_bias``.
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
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    n: int = 1
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "stop_token_ids", "stop_regex"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
            most, given = MAX_STOP_TOKENS if name == "stop_token_ids" else MAX_STOPS, len(getattr(self, name))
            if given > most:
                raise InvalidRequest(f"{name} may hold at most {most}, got {given}")
        for name in ("stop", "stop_regex"):
            for value in getattr(self, name):
                if not isinstance(value, str):
                    raise InvalidRequest(f"{name} must hold strings, got {type(value).__name__}")
                if not value:
                    raise InvalidRequest(f"{name} must not contain an empty string")
            if (length := sum(map(len, getattr(self, name)))) > MAX_STOP_CHARACTERS:
                raise InvalidRequest(f"{name} may have {MAX_STOP_CHARACTERS} characters, got {length}")
        for token_id in self.stop_token_ids:
            check_int("stop_token_ids", token_id, 0)
        check_int("max_tokens", self.max_tokens, 0)
        check_int("min_tokens", self.min_tokens, 0)
        if self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})"
            )
        check_int("top_k", self.top_k, -1, MAX_TOP_K)
        check_int("n", self.n, 1)
        check_float("temperature", self.temperature, 0.0, 100.0)
        check_float("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidRequest("top_p must be greater than 0")
        check_float("min_p", self.min_p, 0.0, 1.0)
        check_float("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        check_float("presence_penalty", self.presence_penalty, -2.0, 2.0)
        check_float("repetition_penalty", self.repetition_penalty, LEAST_REPETITION_PENALTY, 100.0)
        object.__setattr__(self, "logit_bias", _as_bias(self.logit_bias))
        if not isinstance(self.ignore_eos, bool):
            raise InvalidRequest(f"ignore_eos must be a bool, got {type(self.ignore_eos).__name__}")
        if self.seed is not None:
            check_int("seed", self.seed, 0, MAX_SEED)
        if self.logprobs is not None:
            check_int("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)
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


def _as_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Checked pairs in order of token ids, from a mapping or from such pairs."""
    if value is None:
        return ()
    try:
        bias = dict(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"logit_bias must map token ids to numbers, got {value!r:.40}") from error
    if len(bias) > MAX_BIASED_TOKENS:
        raise InvalidRequest(f"logit_bias may name at most {MAX_BIASED_TOKENS} tokens, got {len(bias)}")
    for token_id, added in bias.items():
        check_int("logit_bias: a token id", token_id, 0)
        check_float(f"logit_bias of token {token_id}", added, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
    return tuple((token_id, float(bias[token_id])) for token_id in sorted(bias))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, (str, int)):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(value)
    raise InvalidRequest(f"expected a string or a list, got {type(value).__name__}")
