"""JSON Schemas of Python types, made by msgspec and completed here.

Invariant: msgspec reads every text of the schema as a value of the type. Where its own schema says less than
its decoder wants, we add what is missing or refuse the type. Must not know: programs, engines, pydantic.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from ramet.errors import InvalidConstraint

_FOURTH_YEAR = "(0[48]|[2468][048]|[13579][26])"  # two digits that four divides, but 00
_DATE = (
    "((000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-"
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    f"|([0-9]{{2}}{_FOURTH_YEAR}|{_FOURTH_YEAR}00)-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"

NAIVE_TIME = f"^{_TIME}$"
"""A time without an offset from UTC, for which JSON Schema has no format."""

NAIVE_DATETIME = f"^{_DATE}T{_TIME}$"
"""A date and time without an offset from UTC."""

_SECONDS = r"[0-9]{1,5}(\.[0-9]{1,6})?S"
_CLOCK = f"T([0-9]{{1,4}}H([0-9]{{1,4}}M)?({_SECONDS})?|[0-9]{{1,4}}M({_SECONDS})?|{_SECONDS})"
_DURATION = f"^P([0-9]{{1,5}}D({_CLOCK})?|{_CLOCK})$"  # msgspec reads no weeks, months and years


def schema_of_type(kind: Any) -> dict[str, Any]:
    """The schema of a type that msgspec knows.

    Raises:
        InvalidConstraint: a text of its schema need not be a value of it; the message says what to write.
        TypeError, NameError, RecursionError: msgspec has no schema for it.
    """
    info = inspect.type_info(kind)
    named = _named_types(info)
    (schema, *references), definitions = msgspec.json.schema_components([kind, *named])
    _complete(info, schema)
    for reference, component in zip(references, named.values(), strict=True):
        _complete_fields(component, definitions[reference["$ref"].rpartition("/")[2]])
    return {**schema, "$defs": definitions} if definitions else schema


def _named_types(info: Any) -> dict[Any, Any]:
    """The types with fields in a tree of types, by class."""
    found: dict[Any, Any] = {}
    waiting = [info]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, inspect.CustomType):
            raise TypeError(f"{kind.cls!r} is not supported inside it")
        if hasattr(kind, "fields"):
            if kind.cls in found:
                continue
            found[kind.cls] = kind
            waiting.extend(field.type for field in kind.fields)
        for several in ("types", "item_types"):
            waiting.extend(getattr(kind, several, ()))
        for one in ("type", "item_type", "key_type", "value_type"):
            if hasattr(kind, one):
                waiting.append(getattr(kind, one))
    return found


def _bare(kind: Any) -> Any:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _complete_fields(kind: Any, schema: dict[str, Any]) -> None:
    """Complete the definition of a type with fields."""
    if "properties" in schema:
        for field in kind.fields:
            _complete(field.type, schema["properties"][field.encode_name])
    else:  # an array, perhaps with a tag in front
        items = schema["prefixItems"]
        for field, item in zip(kind.fields, items[len(items) - len(kind.fields) :], strict=True):
            _complete(field.type, item)


def _complete(kind: Any, schema: dict[str, Any]) -> None:
    """Write into the schema of a type what msgspec leaves out, as far as the next reference."""
    if "$ref" in schema:
        return
    match kind := _bare(kind):
        case inspect.DateTimeType():
            _set_text(schema, {"pattern": NAIVE_DATETIME} if kind.tz is False else {"format": "date-time"})
        case inspect.TimeType():
            _set_text(schema, {"pattern": NAIVE_TIME} if kind.tz is False else {"format": "time"})
        case inspect.TimeDeltaType():
            _set_text(schema, {"pattern": _DURATION})
        case inspect.DecimalType():  # read from the digits, exactly
            schema["type"] = "number"
            del schema["format"]
        case inspect.CollectionType():
            if isinstance(kind, (inspect.SetType, inspect.FrozenSetType)):
                release_set(schema)
            if "items" in schema:
                _complete(kind.item_type, schema["items"])
        case inspect.TupleType():
            for item_type, item in zip(kind.item_types, schema.get("prefixItems", ()), strict=True):
                _complete(item_type, item)
        case inspect.UnionType():
            for member, option in zip(_unnamed_members(kind), schema["anyOf"], strict=False):
                _complete(member, option)
        case _ if hasattr(kind, "key_type"):
            key = _bare(kind.key_type)
            if not isinstance(key, inspect.AnyType) and key != inspect.StrType():
                require_named_keys(schema, type(key).__name__.removesuffix("Type").lower())
            if "additionalProperties" in schema:
                _complete(kind.value_type, schema["additionalProperties"])


def _unnamed_members(kind: inspect.UnionType) -> list[Any]:
    """The members of a union whose schemas come first, in order: all but objects and ``None``."""

    def comes_first(member: Any) -> bool:
        bare = _bare(member)
        is_object = isinstance(bare, inspect.StructType) and not bare.array_like
        return not is_object and not isinstance(bare, inspect.NoneType)

    return [member for member in kind.types if comes_first(member)]


def _set_text(schema: dict[str, Any], form: dict[str, str]) -> None:
    """Say what a text looks like, unless the type's own annotation does."""
    if not schema.keys() & {"pattern", "enum", "const"}:
        schema.pop("format", None)
        schema.update(form)


def release_set(schema: dict[str, Any]) -> None:
    """Let the array of a set repeat items: whoever reads it drops what is there twice.

    Raises:
        InvalidConstraint: it must have several items; there may be fewer without the repeated ones.
    """
    if schema.get("minItems", 0) > 1:
        raise InvalidConstraint(
            "json_schema: the size of a set cannot be enforced, for its items may repeat; write a list"
        )
    schema.pop("uniqueItems", None)


def require_named_keys(schema: dict[str, Any], key: str) -> None:
    """Check that the schema of a dict says what its keys are.

    Raises:
        InvalidConstraint: it does not, so they would be any text.
    """
    if "propertyNames" not in schema and "patternProperties" not in schema:
        raise InvalidConstraint(
            f"json_schema: a dict with keys of type {key} cannot be enforced; write dict[str, ...], a class "
            "with a field for each key, or a list of pairs"
        )
