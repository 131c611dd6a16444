"""The keywords of JSON Schema: which restrict values, which restrict nothing, which are refused.

Invariant: what leaves here uses known keywords only, each with a value of the right kind, without annotations
and in the spelling of draft 2020-12. Knows nothing of references or automata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

from ramet.errors import InvalidConstraint

Assertions: TypeAlias = dict[str, Any]
"""The keywords of a schema that restrict its values, checked; ``type`` and ``enum`` are lists."""

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""The keywords that are about the values of one type."""

TYPES_OF: Mapping[str, frozenset[str]] = {
    keyword: frozenset({name, "integer"} if name == "number" else {name})
    for name, keywords in FAMILIES.items()
    for keyword in keywords
} | {"format": frozenset({"string", "integer", "number"})}
"""For each of them the types it restricts."""

ANNOTATIONS = frozenset(
    {
        "$anchor",
        "$comment",
        "$defs",
        "$schema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "externalDocs",
        "readOnly",
        "title",
        "writeOnly",
        "xml",
    }
)
"""Keywords that restrict nothing. So do those that begin with ``x-``."""

_NO_CONDITIONS = "write out the cases as anyOf"
_REFUSED: Mapping[str, str] = {
    "not": "write what is allowed instead",
    "if": _NO_CONDITIONS,
    "then": _NO_CONDITIONS,
    "else": _NO_CONDITIONS,
    "dependentRequired": _NO_CONDITIONS,
    "dependentSchemas": _NO_CONDITIONS,
    "dependencies": _NO_CONDITIONS,
    "contains": "give the item its own place with prefixItems",
    "minContains": "give the items their own places with prefixItems",
    "maxContains": "give the items their own places with prefixItems",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items",
    "contentEncoding": "remove it, or use pattern",
    "contentMediaType": "remove it",
    "contentSchema": "give the content as a value of its own",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "$dynamicAnchor": "use $defs and $ref",
    "$recursiveAnchor": "use $defs and $ref",
    "$vocabulary": "remove it",
    "id": "remove it",
}


class RecursiveSchema(InvalidConstraint):
    """The schema refers to itself, so its values are not a regular language."""


class EmptySchema(InvalidConstraint):
    """No value at all is valid."""


def shortened(text: str) -> str:
    """The text, without its middle if it is long."""
    return text if len(text) <= 200 else f"{text[:100]}…{text[-99:]}"


def refusal(path: str, message: str) -> InvalidConstraint:
    """The error for a part of the schema, which ``path`` points to."""
    return InvalidConstraint(f"json_schema at {shortened(path)}: {message}")


def empty(path: str, message: str) -> EmptySchema:
    """The error for a part of the schema that no value meets."""
    return EmptySchema(f"json_schema at {shortened(path)}: {message}; no value is valid")


def below(path: str, *keys: str | int) -> str:
    """The JSON pointer of a part of what ``path`` points to."""
    return "/".join([path, *(str(key).replace("~", "~0").replace("/", "~1") for key in keys)])


def checked(schema: dict[str, Any], path: str, *, is_root: bool) -> Assertions:
    """The keywords of a schema that restrict its values.

    Raises:
        InvalidConstraint: a keyword is unknown, cannot be enforced, or has a value of the wrong kind.
    """
    return _normalised(_checked(schema, path, is_root=is_root), path)


def _checked(schema: dict[str, Any], path: str, *, is_root: bool) -> Assertions:
    """The keywords that are no annotations."""
    found = {}
    for keyword, value in schema.items():
        if not isinstance(keyword, str):
            raise refusal(path, f"the keys of a schema must be strings, got {keyword!r}")
        at = below(path, keyword)
        if keyword in ANNOTATIONS or keyword.startswith("x-"):
            continue
        if keyword == "$id":
            if not is_root:
                raise refusal(
                    at, "$id inside a schema changes what references mean and is not supported; remove it"
                )
        elif keyword == "nullable":
            if value is not False:
                raise refusal(at, 'nullable is not JSON Schema; add "null" to the list of types instead')
        elif keyword in _REFUSED:
            raise refusal(at, f"the keyword {keyword} is not supported; {_REFUSED[keyword]}")
        elif keyword not in _KINDS:
            raise refusal(at, f"the keyword {keyword!r} is unknown and so cannot be enforced; remove it")
        elif (wrong := _KINDS[keyword](value)) is not None:
            raise refusal(at, f"must be {wrong}, got {kind_of(value)}")
        else:
            found[keyword] = value
    return found


def _normalised(given: Assertions, path: str) -> Assertions:
    found = {key: value for key, value in given.items() if not (key == "uniqueItems" and value is False)}
    if "type" in found:
        types = [found["type"]] if isinstance(found["type"], str) else found["type"]
        found["type"] = [name for name in dict.fromkeys(types) if name != "integer" or "number" not in types]
    items, further = found.get("items"), found.pop("additionalItems", None)
    if isinstance(items, list):  # as in draft 7
        if "prefixItems" in found:
            raise refusal(below(path, "items"), "must be a schema beside prefixItems")
        del found["items"]
        if items:
            found["prefixItems"] = items
        if further is not None:
            found["items"] = further
    if "const" in found:
        constant = found.pop("const")
        if all(identity(constant) != identity(value) for value in found.get("enum", [constant])):
            raise empty(below(path, "const"), "it is not among the values of enum")
        found["enum"] = [constant]
    return found


MAX_BITS = 4000
"""Of an integer: Python does not write longer ones."""


def kind_of(value: object) -> str:
    match value:
        case bool():
            return "a boolean"
        case None:
            return "null"
        case int() if value.bit_length() > MAX_BITS:
            return "an integer of very many digits"
        case float() | int():
            return f"{value}"
        case str():
            return repr(shortened(value))
        case list():
            return "an array" if value else "an empty array"
    return "an object" if isinstance(value, dict) else type(value).__name__


def _is_schema(value: object) -> bool:
    return isinstance(value, (dict, bool))


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= MAX_BITS


def _must_be(test: Callable[[Any], bool], name: str) -> Callable[[Any], str | None]:
    return lambda value: None if test(value) else name


_a_schema = _must_be(_is_schema, "a schema (an object or a boolean)")
_schemas = _must_be(
    lambda v: isinstance(v, list) and bool(v) and all(map(_is_schema, v)), "an array of schemas"
)
_named_schemas = _must_be(
    lambda v: isinstance(v, dict) and all(map(_is_schema, v.values())), "an object of schemas"
)
_a_count = _must_be(
    lambda v: _is_number(v) and 0 <= v < 2**53 and v == int(v), "an integer that is not negative"
)
_a_number = _must_be(_is_number, "a number")
_a_string = _must_be(lambda v: isinstance(v, str), "a string")

_KINDS: Mapping[str, Callable[[Any], str | None]] = {
    "type": _must_be(
        lambda v: (
            v in TYPES
            if isinstance(v, str)
            else isinstance(v, list) and bool(v) and all(t in TYPES for t in v)
        ),
        f"one or more of {', '.join(TYPES)}",
    ),
    "enum": _must_be(lambda v: isinstance(v, list) and bool(v), "an array of at least one value"),
    "const": lambda _: None,
    "$ref": _a_string,
    "anyOf": _schemas,
    "oneOf": _schemas,
    "allOf": _schemas,
    "properties": _named_schemas,
    "required": _must_be(
        lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v), "an array of strings"
    ),
    "additionalProperties": _a_schema,
    "patternProperties": _named_schemas,
    "propertyNames": _a_schema,
    "minProperties": _a_count,
    "maxProperties": _a_count,
    "items": _must_be(
        lambda v: _is_schema(v) or (isinstance(v, list) and all(map(_is_schema, v))),
        "a schema or an array of schemas",
    ),
    "additionalItems": _a_schema,
    "prefixItems": _schemas,
    "minItems": _a_count,
    "maxItems": _a_count,
    "uniqueItems": _must_be(lambda v: isinstance(v, bool), "a boolean"),
    "minLength": _a_count,
    "maxLength": _a_count,
    "pattern": _a_string,
    "format": _a_string,
    "minimum": _a_number,
    "maximum": _a_number,
    "exclusiveMinimum": _a_number,
    "exclusiveMaximum": _a_number,
    "multipleOf": _must_be(lambda v: _is_number(v) and v > 0, "a number above 0"),
}


# ----------------------------------------------------------------------------------------------------- values


def type_of(value: object) -> str:
    """The narrowest type of JSON Schema that a value has: ``1.0`` is an integer."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def size_of(value: object) -> int:
    """How many values there are in a value, itself included."""
    size, waiting = 0, [value]
    while waiting:
        size += 1
        match waiting.pop():
            case dict() as found:
                waiting.extend(found.values())
            case list() as found:
                waiting.extend(found)
    return size


def identity(value: object) -> Hashable:
    """Equal for values that JSON Schema calls equal: 1 and 1.0, but not true; keys in any order."""
    match value:
        case bool():
            return ("boolean", value)
        case list():
            return tuple(map(identity, value))
        case dict():
            return frozenset((key, identity(item)) for key, item in value.items())
    return value if isinstance(value, Hashable) else repr(value)
