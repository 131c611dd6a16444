"""JSON schemas as regular languages: of the JSON texts of their values.

The table of keywords is in docs/concepts/json-schema.md. Invariant: every text of the language is a valid
value. Where a schema allows what a regular language should not (properties nobody named, endless nesting and
digits), the language is smaller than the schema. A keyword that is not enforced is an error. Knows nothing of
automata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ramet.errors import InvalidConstraint
from ramet.grammar.json_document import Document
from ramet.grammar.json_keywords import (
    FAMILIES,
    TYPES_OF,
    Assertions,
    EmptySchema,
    RecursiveSchema,
    below,
    empty,
    refusal,
    shortened,
    size_of,
)
from ramet.grammar.json_merge import Flattener, joined
from ramet.grammar.json_numbers import either
from ramet.grammar.json_patterns import pattern_node
from ramet.grammar.json_scalars import constants_of, integer_of, number_of, string_of
from ramet.grammar.json_syntax import MAX_FREE_DEPTH, SCALARS, Extra, JsonSyntax, Member
from ramet.grammar.json_text import ANY_STRING, escape_node, string, string_other_than
from ramet.grammar.nodes import Node

__all__ = ["RecursiveSchema", "schema_to_node"]

MAX_DEPTH = 48
"""Schemas in each other, references followed."""
MAX_KEY_LENGTH = 100
"""Of the names of an object that may have further properties."""


def schema_to_node(schema: object, whitespace: Node | None = None) -> Node:
    """The language of the JSON texts of a schema's values.

    Args:
        schema: what a JSON parser gives for it.
        whitespace: what may stand wherever JSON allows whitespace inside a value. ``None`` is one space after
            ``:`` and ``,`` and nothing elsewhere, as ``json.dumps`` writes.

    Raises:
        RecursiveSchema: the schema refers to itself.
        InvalidConstraint: it is no schema, has a keyword that cannot be enforced, or no value at all; the
            message points to the place and says what to do.
    """
    return _Compiler(schema, whitespace).node(schema, "#")


class _Compiler:
    def __init__(self, schema: object, whitespace: Node | None) -> None:
        self._flattener = Flattener(Document(schema))
        self._syntax = JsonSyntax(whitespace)
        self._known: dict[int, Node] = {}  # by the identity of the assertions, which the flattener keeps
        self._open: frozenset[int] = frozenset()  # the schemas that the current one is part of
        self._depth = 0

    def node(self, schema: object, path: str) -> Node:
        """The language of one schema; the same object for the same schema."""
        flat = self._flattener.flat(schema, path, self._open)
        if not flat.sources.isdisjoint(self._open):
            raise RecursiveSchema(f"json_schema at {path}: the schema refers to itself, which is not regular")
        known = self._known.get(id(flat.assertions))
        if known is not None:
            return known
        if self._depth >= MAX_DEPTH:
            raise refusal(path, f"schemas are nested more than {MAX_DEPTH} levels deep here")
        outside = self._open
        self._open, self._depth = outside | flat.sources, self._depth + 1
        node = self._value(flat.assertions, flat.path)
        self._open, self._depth = outside, self._depth - 1
        self._known[id(flat.assertions)] = node
        return node

    def _value(self, schema: Assertions, path: str) -> Node:
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._alternatives(schema, keyword, path)
        if "enum" in schema:
            return self._constants(schema, path)
        given = [name for name, keywords in FAMILIES.items() if not schema.keys().isdisjoint(keywords)]
        types = schema.get("type", given)
        if not types:
            return self._syntax.anything(MAX_FREE_DEPTH)
        for keyword, value in schema.items():
            if keyword == "pattern":
                self._flattener.spend(len(value) // 2, path)
            elif keyword in FAMILIES["number"]:
                self._flattener.spend(len(str(value)), path)
            if keyword in TYPES_OF and TYPES_OF[keyword].isdisjoint(types):
                told = f"{keyword} says nothing about values of type {', '.join(types)}; remove it"
                raise refusal(below(path, keyword), told)
        writers: Mapping[str, Callable[[Assertions, str], Node]] = {
            "string": string_of,
            "integer": integer_of,
            "number": number_of,
            "array": self._array,
            "object": self._object,
        }
        return either([writers[name](schema, path) if name in writers else SCALARS[name] for name in types])

    # ----------------------------------------------------------------------------- alternatives and constants

    def _alternatives(self, schema: Assertions, keyword: str, path: str) -> Node:
        """``anyOf`` or ``oneOf``; each alternative is joined with the other keywords of the schema."""
        rest = {key: value for key, value in schema.items() if key != keyword}
        options: list[tuple[object, str]] = []
        for index, alternative in enumerate(schema[keyword]):
            where = below(path, keyword, index)
            option = joined(rest, alternative)
            try:
                self._flattener.flat(option, where, self._open)
            except EmptySchema:  # the other keywords rule it out
                continue
            options.append((option, where))
        if not options:
            raise empty(below(path, keyword), "the other keywords rule out each of its alternatives")
        nodes = [self.node(option, where) for option, where in options]
        if keyword == "oneOf":
            for index, (option, where) in enumerate(options):
                for other, there in options[:index]:
                    if not self._flattener.exclude_each_other(option, other, where):
                        raise refusal(
                            where,
                            f"a value might be valid here and at {there} too, which oneOf forbids; give the "
                            "two different types, or a required property with its own const, or use anyOf",
                        )
        return either(nodes)

    def _constants(self, schema: Assertions, path: str) -> Node:
        self._flattener.spend(size_of(schema["enum"]) // 4, path)
        try:
            return either([self._syntax.constant(value) for value in constants_of(schema, path)])
        except EmptySchema:
            raise
        except InvalidConstraint as error:
            raise refusal(below(path, "enum"), str(error)) from error

    # ------------------------------------------------------------------------------------- arrays and objects

    def _array(self, schema: Assertions, path: str) -> Node:
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        most = None if most is None else int(most)
        prefix = schema.get("prefixItems", [])
        if schema.get("uniqueItems") and (most is None or most > 1):
            raise refusal(
                below(path, "uniqueItems"),
                "it is not enforced; remove it, or use an object with an optional property for each item",
            )
        items = schema.get("items", not prefix or least > len(prefix))
        if items is False:
            most = len(prefix) if most is None else min(most, len(prefix))
        if most is not None and least > most:
            raise empty(path, f"an array has at least {least} and at most {most} items")
        given = prefix if most is None else prefix[:most]
        self._flattener.spend(len(given) * len(given).bit_length() // 4, path)
        nodes = [self.node(item, below(path, "prefixItems", index)) for index, item in enumerate(given)]
        if most is not None and most <= len(given):
            return self._syntax.array(nodes, least)
        return self._syntax.array(nodes, least, self._member(items, below(path, "items")), most)

    def _member(self, schema: object, path: str) -> Node:
        return self._syntax.anything(MAX_FREE_DEPTH - 1) if schema is True else self.node(schema, path)

    def _object(self, schema: Assertions, path: str) -> Node:
        properties: dict[str, object] = dict(schema.get("properties", {}))
        required = dict.fromkeys(schema.get("required", ()))
        extra, forbidden = (
            self._extra(schema, path),
            [key for key, value in properties.items() if value is False],
        )
        for key in required:
            if key in forbidden or (key not in properties and schema.get("additionalProperties") is False):
                raise empty(below(path, "required"), f"{shortened(key)!r} is required and not allowed")
            if key not in properties:
                if "patternProperties" in schema or "propertyNames" in schema:
                    raise refusal(
                        below(path, "required"), f"{shortened(key)!r} is required; name it in properties"
                    )
                properties[key] = schema.get("additionalProperties", True)
        self._flattener.spend(len(properties) * len(properties).bit_length() // 4, path)
        members = []
        for key, value in properties.items():
            if key not in forbidden:
                where = below(path, "properties", key)
                members.append(Member(self._escapable(key, where), self.node(value, where), key in required))
        if properties and extra is not None:
            if max(map(len, properties)) > MAX_KEY_LENGTH:
                raise refusal(
                    path, f"beside additionalProperties, names may have {MAX_KEY_LENGTH} characters"
                )
            self._flattener.spend(sum(map(len, properties)), path)
            extra = Extra(string_other_than(list(properties)), extra.value)
        least, most = int(schema.get("minProperties", 0)), schema.get("maxProperties")
        extra = self._counted(members, extra, least, None if most is None else int(most), path)
        return self._syntax.object(members, extra, filled=least > 0)

    def _extra(self, schema: Assertions, path: str) -> Extra | None:
        """The properties that nobody named."""
        patterns: dict[str, Any] = schema.get("patternProperties", {})
        further = schema.get("additionalProperties")
        if "propertyNames" in schema and (patterns or schema.get("properties")):
            raise refusal(
                below(path, "propertyNames"), "it is enforced in objects without properties only; remove it"
            )
        if patterns:
            if len(patterns) > 1 or schema.get("properties") or further not in (None, False):
                raise refusal(
                    below(path, "patternProperties"),
                    "it is enforced for one pattern, without properties and additionalProperties; remove it",
                )
            [(pattern, value)] = patterns.items()
            where = below(path, "patternProperties", pattern)
            self._flattener.spend(len(pattern) // 2, path)
            try:
                key = string(escape_node(pattern_node(pattern)))
            except InvalidConstraint as error:
                raise refusal(where, str(error)) from error
            return Extra(key, self._member(value, where)) if value is not False else None
        is_closed = further is False or (further is None and ("properties" in schema or "required" in schema))
        if is_closed:
            return None
        value = self._member(True if further is None else further, below(path, "additionalProperties"))
        if "propertyNames" not in schema:
            return Extra(ANY_STRING, value)
        names = joined({"type": ["string"]}, schema["propertyNames"])
        return Extra(self.node(names, below(path, "propertyNames")), value)

    def _counted(
        self, members: list[Member], extra: Extra | None, least: int, most: int | None, path: str
    ) -> Extra | None:
        """The further properties of an object of ``least`` (0 and 1 only) to ``most`` properties in all."""
        num_required = sum(member.required for member in members)
        largest = len(members) if extra is None else None
        if (most is not None and max(least, num_required) > most) or (
            largest is not None and least > largest
        ):
            raise empty(
                path, f"an object has at least {max(least, num_required)} properties and cannot have them"
            )
        if least > max(num_required, 1):
            raise refusal(
                below(path, "minProperties"), "only 0 and 1 are enforced; name properties in required"
            )
        if most is not None and most < len(members):
            raise refusal(
                below(path, "maxProperties"), "fewer than there are properties is not enforced; remove it"
            )
        if extra is None:
            return None
        return Extra(extra.key, extra.value, 0, None if most is None else most - len(members))

    def _escapable(self, key: str, path: str) -> str:
        if not key.isascii() and any("\ud800" <= character <= "\udfff" for character in key):
            raise refusal(path, f"{shortened(key)!r} holds half of a surrogate pair, which no text can")
        return key
