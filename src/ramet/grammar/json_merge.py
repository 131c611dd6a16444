"""Schemas as values: ``$ref`` and ``allOf`` resolved into one set of keywords, alternatives shown disjoint.

Invariant: a value is valid for what `Flattener.flat` returns if and only if it is valid for the schema. Knows
nothing of automata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ramet.grammar.json_document import Document
from ramet.grammar.json_keywords import (
    FAMILIES,
    TYPES,
    Assertions,
    EmptySchema,
    RecursiveSchema,
    below,
    empty,
    identity,
    refusal,
    size_of,
    type_of,
)

MAX_WORK = 50_000
"""Steps for one document, of about 10 microseconds."""
MAX_CHAIN = 48
"""References and ``allOf`` that lead from one schema to the next."""
MAX_PROOF_DEPTH = 8
"""How deep in their properties two schemas are compared."""


_NOTHING: Assertions = {}
"""What the schema ``true`` asserts. One object: the identity of a `Flat`'s assertions tells schemas apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """A schema without ``$ref`` and ``allOf``.

    Attributes:
        assertions: its keywords. The same object whenever the same schema is asked for.
        path: where it stands, for messages.
        sources: the identities of the schemas it was made of.
    """

    assertions: Assertions
    path: str
    sources: frozenset[int]


class Flattener:
    """Resolves the references and ``allOf`` of a document's schemas, and of schemas made out of them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._known: dict[int, tuple[object, Flat]] = {}
        self._work = 0

    def spend(self, steps: int, path: str) -> None:
        """Steps that are about to be taken.

        Raises:
            InvalidConstraint: there were more than `MAX_WORK`.
        """
        self._work += steps
        if self._work > MAX_WORK:
            told = f"it takes more than {MAX_WORK:,} steps to get here; make the schema smaller"
            raise refusal(path, f"{told}, or its definitions refer to each other less often")

    def flat(self, schema: object, path: str, above: frozenset[int] = frozenset(), chain: int = 0) -> Flat:
        """The keywords of a schema, those of its references and of its ``allOf`` among them.

        Args:
            schema: an object, or a boolean.
            above: identities of schemas that it is part of.
            chain: how many references and ``allOf`` have led here one after the other.

        Raises:
            InvalidConstraint: two schemas cannot be joined.
            EmptySchema: no value is valid.
            RecursiveSchema: the schema refers to itself, or to one of ``above``.
        """
        if schema is True:
            return Flat(_NOTHING, path, frozenset())
        if schema is False:
            raise empty(path, "the schema is false")
        if id(schema) in above:
            raise RecursiveSchema(f"json_schema at {path}: the schema refers to itself, which is not regular")
        known = self._known.get(id(schema))
        if known is None:
            self.spend(2, path)
            known = self._known[id(schema)] = schema, self._flat(schema, path, above | {id(schema)}, chain)
        return known[1]

    def _flat(self, schema: object, path: str, above: frozenset[int], chain: int) -> Flat:
        document = self._document
        given = document.assertions(schema, path)
        own = {keyword: value for keyword, value in given.items() if keyword not in ("$ref", "allOf")}
        members: list[tuple[object, str]] = []
        if "$ref" in given:
            members.append(document.resolve(given["$ref"], below(path, "$ref")))
        members += [(member, below(path, "allOf", i)) for i, member in enumerate(given.get("allOf", ()))]
        if not members:
            return Flat(given, path, frozenset({id(schema)}))
        if chain >= MAX_CHAIN:
            raise refusal(path, f"more than {MAX_CHAIN} references or allOf lead here")
        flats = [self.flat(member, where, above, chain + 1) for member, where in members]
        sources = frozenset({id(schema)}).union(*(flat.sources for flat in flats))
        parts = [flat for flat in flats if flat.assertions]
        if len(parts) == 1 and not own:
            return Flat(parts[0].assertions, parts[0].path, sources)
        merged = own
        for part in parts:
            self.spend(1 + (size_of(merged) + size_of(part.assertions)) // 8, path)
            merged = _merged(merged, part.assertions, path) if merged else part.assertions
        return Flat(merged, path, sources)

    def exclude_each_other(self, one: object, other: object, path: str, depth: int = 0) -> bool:
        """Whether it is certain that no value generated for one of two schemas is valid for the other.

        Generated values are fewer than valid ones: to a schema that has keywords of objects and no type every
        string is valid, but what is written for it are objects.
        """
        if depth > MAX_PROOF_DEPTH:
            return False
        self.spend(1, path)
        try:
            first, second = self.flat(one, path).assertions, self.flat(other, path).assertions
        except EmptySchema:
            return True
        except RecursiveSchema:
            return False
        if self._differ(first, second, path, depth):
            return True
        for these, others in ((first, second), (second, first)):
            for keyword in ("anyOf", "oneOf"):
                if keyword in these:
                    rest = {key: value for key, value in these.items() if key != keyword}
                    options = (joined(rest, option) for option in these[keyword])
                    return all(self.exclude_each_other(option, others, path, depth + 1) for option in options)
        return False

    def _differ(self, first: Assertions, second: Assertions, path: str, depth: int) -> bool:
        shared = (_valid_types(first) & generated_types(second)) | (
            generated_types(first) & _valid_types(second)
        )
        if not shared:
            return True
        if "enum" in first and "enum" in second:
            self.spend((size_of(first["enum"]) + size_of(second["enum"])) // 8, path)
            return not {identity(value) for value in first["enum"]} & {
                identity(value) for value in second["enum"]
            }
        return shared == {"object"} and (
            self._key_differs(first, second, path, depth) or self._key_differs(second, first, path, depth)
        )

    def _key_differs(self, first: Assertions, second: Assertions, path: str, depth: int) -> bool:
        """Whether a property that the first requires cannot be the same in the second."""
        theirs: Mapping[str, object] = second.get("properties", {})
        for key in first.get("required", ()):
            mine = first.get("properties", {}).get(key, True)
            if key in theirs:
                if self.exclude_each_other(mine, theirs[key], path, depth + 1):
                    return True
            elif second.get("additionalProperties") is False and "patternProperties" not in second:
                return True
        return False


# ------------------------------------------------------------------------------------------------------ types


def generated_types(schema: Assertions) -> set[str]:
    """The types of the values we write for a schema: where none is named, those its keywords are about."""
    if {"type", "enum", "anyOf", "oneOf"}.isdisjoint(schema):
        named = {name for name, keywords in FAMILIES.items() if not schema.keys().isdisjoint(keywords)}
        if named:
            return _with_integer(named)
    return _valid_types(schema)


def _valid_types(schema: Assertions) -> set[str]:
    """The types that valid values may have; ``integer`` beside ``number`` for those without a fraction."""
    types = _with_integer(set(schema.get("type", TYPES)))
    if "enum" in schema:
        types &= {type_of(value) for value in schema["enum"]}
    return types


def _with_integer(types: set[str]) -> set[str]:
    return types | {"integer"} if "number" in types else types


# ---------------------------------------------------------------------------------------------------- merging


def _merged(one: Assertions, other: Assertions, path: str) -> Assertions:
    """Keywords that say together what both say."""
    for first, second in ((one, other), (other, one)):
        if "patternProperties" in first and not {"properties", "additionalProperties"}.isdisjoint(second):
            raise refusal(path, "patternProperties cannot be joined with the properties of another schema")
        if "prefixItems" in first and not {"prefixItems", "items"}.isdisjoint(second):
            raise refusal(path, "prefixItems cannot be joined with the items of another schema")
    found: Assertions = {}
    for keyword in [*one, *(keyword for keyword in other if keyword not in one)]:
        if keyword in one and keyword in other:
            join = _JOINS.get(keyword, _same)
            found[keyword] = join(one[keyword], other[keyword], below(path, keyword))
        else:
            found[keyword] = one[keyword] if keyword in one else other[keyword]
    properties = _merged_properties(one, other)
    if properties or "properties" in one or "properties" in other:
        found["properties"] = properties
    return found


def _merged_properties(one: Assertions, other: Assertions) -> dict[str, object]:
    """For each name what both say, ``additionalProperties`` of the one that does not know it included."""
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    found: dict[str, object] = {}
    for key in [*mine, *(key for key in theirs if key not in mine)]:
        sides = [
            side.get("properties", {}).get(key, side.get("additionalProperties", True))
            for side in (one, other)
        ]
        found[key] = _both(*sides)
    return found


def _both(one: object, other: object) -> object:
    if one is False or other is False:
        return False
    if one is True or one is other:
        return other
    return one if other is True else {"allOf": [one, other]}


def _same(one: object, other: object, path: str) -> object:
    if identity(one) != identity(other):
        keyword = path.rpartition("/")[2]
        raise refusal(path, f"two schemas that must both hold have a different {keyword}; join them by hand")
    return one


def _types(one: list[str], other: list[str], path: str) -> list[str]:
    found = [name for name in one if name in other or (name == "integer" and "number" in other)]
    found += [name for name in other if name == "integer" and "number" in one]
    if not found:
        raise empty(path, f"{', '.join(one)} and {', '.join(other)} must both hold")
    return found


def _values(one: list[object], other: list[object], path: str) -> list[object]:
    allowed = {identity(value) for value in other}
    found = [value for value in one if identity(value) in allowed]
    if not found:
        raise empty(path, "the two lists of values that must both hold have none in common")
    return found


def _any_call(join: Callable[[Any, Any], Any]) -> Callable[[Any, Any, str], Any]:
    return lambda one, other, path: join(one, other)


_JOINS: Mapping[str, Callable[[Any, Any, str], Any]] = {
    "type": _types,
    "enum": _values,
    "required": _any_call(lambda one, other: list(dict.fromkeys([*one, *other]))),
    "properties": _any_call(lambda one, other: None),  # written by `_merged_properties`
    "additionalProperties": _any_call(_both),
    "items": _any_call(_both),
    "propertyNames": _any_call(_both),
    **dict.fromkeys(
        ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"], _any_call(max)
    ),
    **dict.fromkeys(
        ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"], _any_call(min)
    ),
}


def joined(rest: Assertions, alternative: object) -> object:
    """A schema that is valid where both are."""
    return {"allOf": [rest, alternative]} if rest else alternative
