"""Sampling parameters as an object: the fields of `SamplingParams`, and a few names others have for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgspec

from ramet.constraints import Cfg, Choice, Constraint, JsonSchema, Regex
from ramet.errors import InvalidRequest, UnsupportedFeature
from ramet.sampling_params import SamplingParams
from ramet.wire.prompts import decode_as

ALIASES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}

CONSTRAINTS = {"regex": Regex, "json_schema": JsonSchema, "ebnf": Cfg, "choices": Choice}
"""Constraints that may be given by what they hold alone."""

_FIXED = {"skip_special_tokens": True, "spaces_between_special_tokens": True, "no_stop_trim": False}
"""Options of other servers that we have one way of: that way may be asked for."""


def encode_params(params: SamplingParams) -> dict[str, Any]:
    """What differs from the defaults, ready for JSON."""
    values = {field.name: getattr(params, field.name) for field in fields(params)}
    changed = {name: value for name, value in values.items() if value != getattr(_DEFAULTS, name)}
    if params.constraint is not None:
        changed["constraint"] = msgspec.to_builtins(params.constraint)
    return changed


def decode_params(given: Mapping[str, Any], where: str = "sampling_params") -> SamplingParams:
    """The parameters that were encoded, or written by hand. A null is as if it were not there.

    Besides the fields of `SamplingParams`: ``max_new_tokens`` and ``min_new_tokens``; ``logit_bias`` as an
    object; and instead of ``constraint`` (``{"type": "Regex", "pattern": "…"}``) one of ``regex``,
    ``json_schema``, ``ebnf`` and ``choices``.

    Raises:
        InvalidRequest: an unknown name, the same thing twice, or a value of a wrong type or out of range.
    """
    values = {name: value for name, value in given.items() if value is not None}
    for name, only in _FIXED.items():
        if values.pop(name, only) is not only:
            raise UnsupportedFeature(f"{where}.{name} can only be {str(only).lower()} here")
    for alias, name in ALIASES.items():
        if alias in values:
            if name in values:
                raise InvalidRequest(f"{where}: {alias} and {name} are the same; give one")
            values[name] = values.pop(alias)
    constraint = _take_constraint(values, where)
    if constraint is not None:
        values["constraint"] = constraint
    if isinstance(values.get("logit_bias"), Mapping):
        values["logit_bias"] = _bias(values["logit_bias"], where)
    return _DEFAULTS.replace(**values)


def _take_constraint(values: dict[str, Any], where: str) -> Constraint | None:
    named = [name for name in ("constraint", *CONSTRAINTS) if name in values]
    if not named:
        return None
    if len(named) > 1:
        raise InvalidRequest(f"{where} can have one constraint, got {' and '.join(named)}")
    name = named[0]
    value = values.pop(name)
    if name in CONSTRAINTS:
        made: Constraint = CONSTRAINTS[name](value)
        return made
    return decode_as(_Constrained, {"constraint": value}, where).constraint


def _bias(given: Mapping[str, Any], where: str) -> list[tuple[int, Any]]:
    """Pairs of numbers: the keys of JSON objects are text."""
    try:
        return [(int(token_id), added) for token_id, added in given.items()]
    except ValueError as error:
        raise InvalidRequest(f"{where}.logit_bias must have token ids as keys: {error}") from error


class _Constrained(msgspec.Struct):
    constraint: Constraint


_DEFAULTS = SamplingParams()
