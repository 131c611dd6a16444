"""From Python types and schemas to constraints, and from the text a model wrote under one back to values.

Invariant: a text that matches the constraint parses, unless a validator that someone wrote refuses the value.
Must not know: programs, engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from ramet.constraints import Constraint, JsonSchema, Regex
from ramet.errors import InvalidConstraint, InvalidRequest
from ramet.type_schema import schema_of_type

Parse = Callable[[str], Any]

# Bounded: a model that does not know when to stop must not write digits for ever.
_INTEGER = "-?(0|[1-9][0-9]{0,17})"
_NUMBER = _INTEGER + r"(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?"
_STRING = r'"([^"\\\x00-\x1f]|\\["\\/bfnrt])*"'


@dataclass(frozen=True, slots=True)
class TypedOutput:
    """What a text must be, and how to read its value; ``parse=None`` if the text is the value."""

    constraint: Constraint
    parse: Parse | None = None


def _read_bool(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(f"{text!r} is neither True nor False")
    return text == "True"


_DTYPES: dict[type, TypedOutput] = {
    int: TypedOutput(Regex(_INTEGER), int),
    float: TypedOutput(Regex(_NUMBER), float),
    bool: TypedOutput(Regex("True|False"), _read_bool),
    str: TypedOutput(Regex(_STRING), json.loads),
}


def of_dtype(dtype: object) -> TypedOutput:
    """A number, ``True`` or ``False``, or a string in double quotes.

    Raises:
        InvalidRequest: not one of ``int``, ``float``, ``bool`` and ``str``.
    """
    for kind, output in _DTYPES.items():
        if dtype is kind:
            return output
    raise InvalidRequest(f"dtype must be int, float, bool or str, got {dtype!r}")


def of_regex(pattern: str) -> TypedOutput:
    """Text that matches a pattern; it is its own value, also where it was cut short.

    Raises:
        InvalidConstraint: the pattern is not a string.
    """
    return TypedOutput(Regex(pattern))


def of_json_schema(schema: object) -> TypedOutput:
    """A JSON value, by a schema (a dict or JSON text) or by a type that has one.

    Types are pydantic models and lists, dicts and unions of them, and whatever msgspec has a schema for:
    dataclasses, TypedDicts, NamedTuples, Structs, ``list[int]``, literals. The value is then of that type.

    Raises:
        InvalidConstraint: text that is not JSON, a type without a schema, or a type that JSON of its schema
            need not be a value of.
    """
    if isinstance(schema, str):
        try:
            json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InvalidConstraint(f"json_schema is not JSON: {error}") from error
        return TypedOutput(JsonSchema(schema), json.loads)
    if isinstance(schema, (Mapping, bool)):
        return TypedOutput(JsonSchema(schema), json.loads)
    written, parse = _of_type(schema)
    return TypedOutput(JsonSchema(written), parse)


def _of_type(kind: Any) -> tuple[dict[str, Any], Parse]:
    try:
        if _holds_pydantic(kind):
            from ramet.pydantic_schema import schema_of_pydantic

            return schema_of_pydantic(kind)
        return schema_of_type(kind), msgspec.json.Decoder(kind).decode
    except (TypeError, NameError, RuntimeError) as error:  # RuntimeError: pydantic's errors, RecursionError
        raise InvalidConstraint(
            "json_schema must be a schema (a dict or JSON text), a pydantic model, a dataclass or another "
            f"type with a schema (one with pydantic models in it: a pydantic model, or a RootModel); "
            f"got {kind!r}: {error}"
        ) from error


def _holds_pydantic(kind: Any) -> bool:
    """Whether a type is or has as arguments what pydantic validates; found without importing it."""
    is_pydantic = isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")
    return is_pydantic or any(map(_holds_pydantic, get_args(kind)))
