"""The keywords of strings and numbers in a schema, as trees; and constants checked against them.

Invariant: every text of a language is a valid value of its type. Knows nothing of arrays or objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from ramet.errors import InvalidConstraint
from ramet.grammar.json_formats import FORMATS
from ramet.grammar.json_keywords import Assertions, below, empty, refusal, type_of
from ramet.grammar.json_numbers import MAX_BOUND_DIGITS, decimals, integers
from ramet.grammar.json_strings import EmptyLanguage, string_node
from ramet.grammar.json_syntax import ANY_NUMBER
from ramet.grammar.json_text import ANY_STRING
from ramet.grammar.nodes import Node

_INTEGER_FORMATS: Mapping[str, tuple[int, int]] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
_NUMBER_FORMATS = frozenset({"float", "double"})


def string_of(schema: Assertions, path: str) -> Node:
    """The strings of a schema.

    Raises:
        InvalidConstraint: its keywords cannot be enforced.
    """
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    name = schema.get("format")
    if name is not None and name not in FORMATS:
        numeric = name in _INTEGER_FORMATS or name in _NUMBER_FORMATS
        hint = "it is one of numbers" if numeric else f"known: {', '.join(sorted(FORMATS))}; or use pattern"
        raise refusal(below(path, "format"), f"the format {name!r} is not enforced for strings ({hint})")
    if least == 0 and most is None and name is None and "pattern" not in schema:
        return ANY_STRING
    try:
        return string_node(
            least,
            None if most is None else int(most),
            pattern=schema.get("pattern"),
            format_name=name,
        )
    except EmptyLanguage as error:
        raise empty(path, str(error)) from error
    except InvalidConstraint as error:
        raise refusal(below(path, "pattern") if "pattern" in schema else path, str(error)) from error


def integer_of(schema: Assertions, path: str) -> Node:
    """The integers of a schema, written without a fraction.

    Raises:
        InvalidConstraint: its keywords cannot be enforced.
    """
    _check_multiple(schema, path)
    lows = [math.ceil(schema["minimum"])] if "minimum" in schema else []
    lows += [math.floor(schema["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in schema else []
    highs = [math.floor(schema["maximum"])] if "maximum" in schema else []
    highs += [math.ceil(schema["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in schema else []
    name = schema.get("format", "")
    if name in _INTEGER_FORMATS:
        lows.append(_INTEGER_FORMATS[name][0])
        highs.append(_INTEGER_FORMATS[name][1])
    elif name and "string" not in schema.get("type", ()):
        raise refusal(
            below(path, "format"), f"the format {name!r} is not one of integers (known: int32, int64)"
        )
    if any(abs(bound) >= 10**MAX_BOUND_DIGITS for bound in (*lows, *highs)):
        raise refusal(path, f"a bound may have at most {MAX_BOUND_DIGITS} digits")
    low, high = max(lows, default=None), min(highs, default=None)
    if low is not None and high is not None and low > high:
        raise empty(path, f"an integer of at least {low} and at most {high} does not exist")
    return integers(low, high)


def number_of(schema: Assertions, path: str) -> Node:
    """The numbers of a schema.

    Raises:
        InvalidConstraint: its keywords cannot be enforced.
    """
    name = schema.get("format", "")
    if "multipleOf" in schema or name in _INTEGER_FORMATS:
        return integer_of(schema, path)
    if name and name not in _NUMBER_FORMATS and "string" not in schema.get("type", ()):
        raise refusal(
            below(path, "format"),
            f"the format {name!r} is not one of numbers (known: float, double, int32, int64)",
        )
    low, low_open = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, high_open = _bound(schema, "maximum", "exclusiveMaximum", min)
    if low is None and high is None:
        return ANY_NUMBER
    try:
        node = decimals(low, high, low_open=low_open, high_open=high_open)
    except ValueError as error:
        raise refusal(path, str(error)) from error
    if node is None:
        raise empty(path, "there is no number, or none of so few digits, between the bounds")
    return node


def _check_multiple(schema: Assertions, path: str) -> None:
    if schema.get("multipleOf", 1) != 1:
        raise refusal(
            below(path, "multipleOf"),
            f"multipleOf {schema['multipleOf']} is not enforced (only 1 is); remove it, or use enum",
        )


def _bound(
    schema: Assertions, closed: str, open_: str, tighter: Callable[[Decimal, Decimal], Decimal]
) -> tuple[Decimal | None, bool]:
    """The tighter of two bounds, and whether it does not belong to the numbers."""
    one, other = (Decimal(repr(schema[key])) if key in schema else None for key in (closed, open_))
    if other is None or one is None:
        return (one, False) if other is None else (other, True)
    return tighter(one, other), tighter(one, other) == other


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_CHECKS: Mapping[str, Callable[[Any, Any], bool]] = {
    "minLength": lambda value, limit: not isinstance(value, str) or len(value) >= limit,
    "maxLength": lambda value, limit: not isinstance(value, str) or len(value) <= limit,
    "minimum": lambda value, limit: not _is_number(value) or value >= limit,
    "maximum": lambda value, limit: not _is_number(value) or value <= limit,
    "exclusiveMinimum": lambda value, limit: not _is_number(value) or value > limit,
    "exclusiveMaximum": lambda value, limit: not _is_number(value) or value < limit,
}
"""The keywords that are checked beside ``enum``: whether a value meets one."""


def constants_of(schema: Assertions, path: str) -> list[object]:
    """The values of ``enum`` that the other keywords of the schema allow.

    Raises:
        InvalidConstraint: there are none, or a keyword is not checked beside ``enum``.
    """
    values = list(schema["enum"])
    for keyword, limit in schema.items():
        if keyword == "type":
            allowed = {*limit, "integer"} if "number" in limit else set(limit)
            values = [value for value in values if type_of(value) in allowed]
        elif keyword in _CHECKS:
            values = [value for value in values if _CHECKS[keyword](value, limit)]
        elif keyword != "enum":
            told = f"{keyword} is not checked beside enum or const; leave out what it forbids, and remove it"
            raise refusal(below(path, keyword), told)
    if not values:
        raise empty(below(path, "enum"), "the other keywords rule out all its values")
    return values
