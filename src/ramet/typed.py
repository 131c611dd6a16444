"""From Python types and schemas to constraints, and from the text a model wrote under one back to values.

Invariant: a text that matches the constraint parses. Must not know: programs, engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ramet.constraints import Constraint, JsonSchema, Regex
from ramet.errors import InvalidConstraint, InvalidRequest

Parse = Callable[[str], Any]

# Bounded: a model that does not know when to stop must not write digits for ever.
_INTEGER = "-?(0|[1-9][0-9]{0,17})"
_NUMBER = _INTEGER + r"(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?"
_STRING = r'"([^"\\\x00-\x1f]|\\["\\/bfnrt])*"'


@dataclass(frozen=True, slots=True)
class TypedOutput:
    """What a text must be, and how to read its value."""

    constraint: Constraint
    parse: Parse


_DTYPES: dict[type, TypedOutput] = {
    int: TypedOutput(Regex(_INTEGER), int),
    float: TypedOutput(Regex(_NUMBER), float),
    bool: TypedOutput(Regex("True|False"), lambda text: text == "True"),
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


def of_regex(pattern: object) -> TypedOutput:
    """Text that matches a pattern; its value is the text.

    Raises:
        InvalidRequest: the pattern is not a string.
    """
    if not isinstance(pattern, str):
        raise InvalidRequest(f"regex must be a string, got {type(pattern).__name__}")
    return TypedOutput(Regex(pattern), str)


def of_json_schema(schema: object) -> TypedOutput:
    """A JSON value, by a schema (a dict or JSON text) or by a type that has one.

    Types are pydantic models, and whatever msgspec has a schema for: dataclasses, TypedDicts, NamedTuples,
    Structs, ``list[int]``, literals. The value is then of that type.

    Raises:
        InvalidConstraint: a type without a schema, or text that is not JSON.
    """
    if isinstance(schema, str):
        try:
            json.loads(schema)
        except ValueError as error:
            raise InvalidConstraint(f"json_schema is not JSON: {error}") from error
        return TypedOutput(JsonSchema(schema), json.loads)
    if isinstance(schema, (Mapping, bool)):
        try:
            return TypedOutput(JsonSchema(json.dumps(schema)), json.loads)
        except (TypeError, ValueError) as error:
            raise InvalidConstraint(f"json_schema cannot be written as JSON: {error}") from error
    model: Any = schema
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):  # pydantic, without importing it
        return TypedOutput(JsonSchema(json.dumps(model.model_json_schema())), model.model_validate_json)
    return _of_type(model)


def _of_type(kind: Any) -> TypedOutput:
    import msgspec

    try:
        schema = msgspec.json.schema(kind)
        decoder = msgspec.json.Decoder(kind)
    except (TypeError, NameError) as error:  # a type it does not know; an annotation that names nothing
        raise InvalidConstraint(
            "json_schema must be a schema (a dict or JSON text), a pydantic model, a dataclass or another "
            f"type with a schema; got {kind!r}: {error}"
        ) from error
    return TypedOutput(JsonSchema(json.dumps(schema)), decoder.decode)
