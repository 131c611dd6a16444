"""JSON Schemas of types that hold pydantic models. Imported only for such a type: pydantic is not required.

Invariant: pydantic reads every text of the schema as a value of the type, unless a validator of its author
refuses it. Where its own schema says less, we add what is missing or refuse the type. Must not know:
programs, engines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from ramet.errors import InvalidConstraint
from ramet.type_schema import NAIVE_DATETIME, NAIVE_TIME, release_set, require_named_keys

_BOUNDS = ("ge", "gt", "le", "lt")


def schema_of_pydantic(kind: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """The schema of a type, and what reads a text of it.

    Raises:
        InvalidConstraint: a text of its schema need not be a value of it; the message says what to write.
        TypeError, NameError, RuntimeError: pydantic has no schema for it.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter.json_schema(schema_generator=_ReadableSchema), adapter.validate_json


class _ReadableSchema(GenerateJsonSchema):
    """Pydantic's schemas, as narrow as what it reads."""

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]

    def str_schema(self, schema: Any) -> dict[str, Any]:
        if schema.get("strip_whitespace") and (schema.get("min_length") or schema.get("pattern") is not None):
            raise InvalidConstraint(
                "json_schema: min_length and pattern of a str whose whitespace is stripped cannot be "
                "enforced; leave out strip_whitespace"
            )
        return super().str_schema(schema)

    def set_schema(self, schema: Any) -> dict[str, Any]:
        released = super().set_schema(schema)
        release_set(released)
        return released

    def frozenset_schema(self, schema: Any) -> dict[str, Any]:
        released = super().frozenset_schema(schema)
        release_set(released)
        return released

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        return self._with_known_keys(super().dict_schema(schema), schema)

    def ordered_dict_schema(self, schema: Any) -> dict[str, Any]:
        return self._with_known_keys(super().ordered_dict_schema(schema), schema)

    def counter_schema(self, schema: Any) -> dict[str, Any]:
        return self._with_known_keys(super().counter_schema(schema), schema)

    def _with_known_keys(self, written: dict[str, Any], schema: Any) -> dict[str, Any]:
        keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        if keys and keys != {"type": "string"}:
            require_named_keys(written, schema["keys_schema"]["type"])
        return written

    def datetime_schema(self, schema: Any) -> dict[str, Any]:
        _refuse_bounds("a datetime", schema)
        written = super().datetime_schema(schema)
        return _moment("a datetime", schema, written, NAIVE_DATETIME)

    def time_schema(self, schema: Any) -> dict[str, Any]:
        _refuse_bounds("a time", schema)
        return _moment("a time", schema, super().time_schema(schema), NAIVE_TIME)

    def date_schema(self, schema: Any) -> dict[str, Any]:
        _refuse_bounds("a date", schema)
        return super().date_schema(schema)

    def timedelta_schema(self, schema: Any) -> dict[str, Any]:
        _refuse_bounds("a timedelta", schema)
        return super().timedelta_schema(schema)

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        """A number if there are bounds; otherwise its digits in quotes, which are read exactly."""
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        bounded = any(schema.get(bound) is not None for bound in (*_BOUNDS, "multiple_of"))
        if bounded and digits is None and places is None:
            number: dict[str, Any] = super().decimal_schema(schema)["anyOf"][0]
            return number
        if bounded or (digits is not None and (places is None or places > digits)):
            raise InvalidConstraint(
                "json_schema: a Decimal can have bounds, or decimal_places (perhaps with a max_digits that "
                "is not smaller); leave out the rest, or check it in a validator"
            )
        before, after = 18 if digits is None else digits - places, 20 if places is None else places
        fraction = rf"\.[0-9]{{1,{after}}}"
        if before == 0:  # pydantic counts the zero of 0, but not that of 0.5
            return {"type": "string", "pattern": f"^-?0{fraction}$"}
        whole, rest = f"(0|[1-9][0-9]{{0,{before - 1}}})", f"({fraction})?" if after else ""
        return {"type": "string", "pattern": f"^-?{whole}{rest}$"}


def _refuse_bounds(what: str, schema: Any) -> None:
    for word in (*_BOUNDS, "now_op"):
        if schema.get(word) is not None:
            raise InvalidConstraint(
                f"json_schema: the bounds of {what} (in the past, in the future, ge, gt, le, lt) cannot be "
                "enforced; leave them out, or check them in a validator"
            )


def _moment(what: str, schema: Any, written: dict[str, Any], naive: str) -> dict[str, Any]:
    """The schema of a date and time or a time, with or without an offset from UTC as the type wants."""
    zone = schema.get("tz_constraint")
    if isinstance(zone, int):
        raise InvalidConstraint(
            f"json_schema: {what} with one offset from UTC cannot be enforced; write it without an offset"
        )
    return {"type": "string", "pattern": naive} if zone == "naive" else written
