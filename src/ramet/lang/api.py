"""The words of the language: `gen`, `select` and the roles.

Each returns an expression; nothing runs until it is appended to a state. Names and choices are checked
here; the values of sampling parameters where the expression is appended, merged with the run's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ramet.errors import InvalidRequest
from ramet.lang.ir import Expr, ExprList, Gen, RoleBegin, RoleEnd, Select, check_name, join
from ramet.lang.select import ChoicesMethod, token_length_normalized
from ramet.sampling_params import SAMPLING_FIELDS, SamplingParams, unknown_parameter
from ramet.typed import TypedOutput, of_dtype, of_json_schema, of_regex
from ramet.types import Role

PUBLISHED_SPELLINGS = frozenset({"return_logprob", "top_logprobs_num"})
"""SGLang's words for ``logprobs``, understood wherever the language takes sampling parameters."""

MAX_SELECT_TEMPERATURE = 1e-5


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    *,
    choices: Sequence[str] | None = None,
    choices_method: ChoicesMethod | None = None,
    regex: str | None = None,
    json_schema: object = None,
    dtype: type | None = None,
    **sampling: Any,
) -> Expr:
    """Text for the model to write, kept in the variable ``name``.

    Args:
        name: the variable; ``None`` only appends the text.
        max_tokens: most tokens to generate.
        choices: pick one of these instead (see `select`); sampling parameters then have no meaning and
            are refused, but for a temperature of 0.
        choices_method: the rule for ``choices``.
        regex: a pattern that the whole text matches.
        json_schema: the text is a JSON value of this schema: a dict, JSON text, a pydantic model, a
            dataclass, a TypedDict or another type; ``s.value(name)`` is then of that type.
        dtype: ``int``, ``float``, ``bool`` or ``str`` (in double quotes); ``s.value(name)`` is of that type.
        **sampling: any field of `SamplingParams`, or ``return_logprob`` and ``top_logprobs_num``.
            ``None`` takes the value of ``run``. With ``n > 1`` the variable is a list of texts, the
            first of which is appended.

    Raises:
        InvalidRequest: an unknown parameter, choices that are not distinct strings, or several constraints.
    """
    typed = _typed_output(regex=regex, json_schema=json_schema, dtype=dtype)
    if typed is not None:
        if choices is not None or sampling.get("constraint") is not None:
            raise InvalidRequest("give one of choices, regex, json_schema, dtype and constraint")
        sampling["constraint"] = typed.constraint
    given = {"max_tokens": max_tokens, **sampling}
    if choices is not None:
        unwanted = [word for word, value in given.items() if value is not None and word != "temperature"]
        if unwanted:
            raise InvalidRequest(f"gen with choices takes no {unwanted[0]}: it picks a choice by logprob")
        return select(name, choices, given.get("temperature"), choices_method or token_length_normalized)
    if choices_method is not None:
        raise InvalidRequest("choices_method needs choices")
    if name is not None:
        check_name(name)
    return Gen(name, sampling_overrides(given), None if typed is None else typed.parse)


def gen_int(name: str | None = None, max_tokens: int | None = None, **sampling: Any) -> Expr:
    """An integer: ``gen(dtype=int)``."""
    return gen(name, max_tokens, dtype=int, **sampling)


def gen_string(name: str | None = None, max_tokens: int | None = None, **sampling: Any) -> Expr:
    """A string in double quotes: ``gen(dtype=str)``."""
    return gen(name, max_tokens, dtype=str, **sampling)


def _typed_output(*, regex: str | None, json_schema: object, dtype: object) -> TypedOutput | None:
    given = [value is not None for value in (regex, json_schema, dtype)]
    if sum(given) > 1:
        raise InvalidRequest("give one of regex, json_schema and dtype")
    if json_schema is not None:
        return of_json_schema(json_schema)
    if dtype is not None:
        return of_dtype(dtype)
    return None if regex is None else of_regex(regex)


def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float | None = 0.0,
    choices_method: ChoicesMethod = token_length_normalized,
) -> Expr:
    """The likeliest of ``choices``, kept in the variable ``name``.

    All choices are scored in one call. ``temperature`` is accepted as published, and must be 0.

    Raises:
        InvalidRequest: ``choices`` is not a non-empty list of distinct non-empty strings.
    """
    if name is not None:
        check_name(name)
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise InvalidRequest(f"choices must be a list of strings, got {type(choices).__name__}")
    if not choices:
        raise InvalidRequest("choices must not be empty")
    for index, choice in enumerate(choices):
        if not isinstance(choice, str):
            raise InvalidRequest(f"choices[{index}] must be a string, got {type(choice).__name__}")
        if not choice:
            raise InvalidRequest(f"choices[{index}] must not be an empty string")
        if choice in choices[:index]:
            raise InvalidRequest(f"choices must be distinct, but {choice!r} occurs twice")
    if temperature is not None:
        params = SamplingParams(temperature=temperature)  # checks type and range
        if params.temperature > MAX_SELECT_TEMPERATURE:
            raise InvalidRequest(
                f"select takes the likeliest choice: temperature must be 0, got {temperature}"
            )
    if not callable(getattr(choices_method, "decide", None)):
        raise InvalidRequest(
            "choices_method must be token_length_normalized, greedy_token_selection or "
            f"unconditional_likelihood_normalized, got {choices_method!r}"
        )
    return Select(name, tuple(choices), choices_method)


def sampling_overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SamplingParams` that were given, in its own words; ``None`` means not given.

    Raises:
        InvalidRequest: an unknown parameter.
    """
    overrides = {}
    for word, value in given.items():
        if word not in SAMPLING_FIELDS and word not in PUBLISHED_SPELLINGS:
            raise InvalidRequest(unknown_parameter(word))
        if value is not None and word not in PUBLISHED_SPELLINGS:
            overrides[word] = value
    wanted, num_top = given.get("return_logprob"), given.get("top_logprobs_num")
    if wanted is None and num_top is None:
        return overrides
    if "logprobs" in overrides:
        raise InvalidRequest("give either logprobs or return_logprob and top_logprobs_num, not both")
    if wanted is not None and not isinstance(wanted, bool):
        raise InvalidRequest(f"return_logprob must be a bool, got {type(wanted).__name__}")
    overrides["logprobs"] = None if wanted is False else num_top or 0
    return overrides


# ----------------------------------------------------------------------------------------------- roles


def message(role: Role, expression: str | Expr | None) -> ExprList:
    """A whole message of a role."""
    return join(RoleBegin(role), "" if expression is None else expression, RoleEnd(role))


def system(expression: str | Expr | None = None) -> ExprList:
    """A system message."""
    return message("system", expression)


def user(expression: str | Expr | None = None) -> ExprList:
    """A user's message."""
    return message("user", expression)


def assistant(expression: str | Expr | None = None) -> ExprList:
    """A message of the assistant; usually with a `gen` in it."""
    return message("assistant", expression)


def system_begin() -> RoleBegin:
    """Begin a system message."""
    return RoleBegin("system")


def system_end() -> RoleEnd:
    """End the system message."""
    return RoleEnd("system")


def user_begin() -> RoleBegin:
    """Begin a user's message."""
    return RoleBegin("user")


def user_end() -> RoleEnd:
    """End the user's message."""
    return RoleEnd("user")


def assistant_begin() -> RoleBegin:
    """Begin a message of the assistant."""
    return RoleBegin("assistant")


def assistant_end() -> RoleEnd:
    """End the message of the assistant."""
    return RoleEnd("assistant")
