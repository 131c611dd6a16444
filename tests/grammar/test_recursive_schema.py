"""Recursive schemas written anew: nothing is lost, nothing is left that a parser could overlook."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramet.errors import InvalidConstraint
from ramet.grammar.nodes import Alternate, Concat, Literal, Repeat, any_of, chars
from ramet.grammar.recursive_schema import matches_nothing_too, spell, standalone_schema

ITSELF = {"$ref": "#"}


def test_annotations_go_references_lead_to_definitions_and_types_are_named():
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "node",
        "properties": {
            "next": {"$ref": "#", "description": "the next one"},
            "day": {"$ref": "#/definitions/day"},
        },
        "definitions": {"day": {"type": "string", "pattern": "^[0-9]{2}$"}, "unused": {"not": {}}},
        "x-guidance": {"lenient": True},
    }
    assert standalone_schema(schema) == {
        "$ref": "#/$defs/0",
        "$defs": {
            "0": {
                "properties": {"next": {"$ref": "#/$defs/0"}, "day": {"$ref": "#/$defs/1"}},
                "type": ["object"],
            },
            "1": {"type": ["string"], "pattern": "^(?:(?:[0-9]){2,2})$"},
        },
    }


def test_alternatives_that_exclude_each_other_may_be_any_of():
    schema = {"oneOf": [{"type": "string"}, {"type": "array", "items": ITSELF}]}
    rewritten = standalone_schema(schema)["$defs"]["0"]
    assert rewritten == {"anyOf": [{"type": ["string"]}, {"type": ["array"], "items": {"$ref": "#/$defs/0"}}]}
    with pytest.raises(InvalidConstraint, match="both alternative 0 and 1"):
        standalone_schema({"oneOf": [{"type": "string"}, {"maxLength": 3}, {"items": ITSELF}]})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": ITSELF, "b": {"not": {}}}}, "#/properties/b/not"),
        ({"properties": {"a": ITSELF}, "nonsense": 1}, "nonsense"),
        ({"properties": {"a": ITSELF, "b": {"format": "color"}}}, "unknown format"),
        ({"properties": {"a": ITSELF, "b": {"pattern": "(?=a)"}}}, "#/properties/b/pattern"),
        ({"properties": {"a": ITSELF, "b": {"pattern": "^\\x01$"}}}, "control character"),
        ({"properties": {"a": ITSELF, "b": {"enum": [["\x7f"]]}}}, "control character"),
        ({"properties": {"a": ITSELF, "b": {"multipleOf": 0.5}}}, "whole numbers up to 1000"),
        ({"properties": {"a": ITSELF, "b": {"multipleOf": 1001}}}, "whole numbers up to 1000"),
        ({"properties": {"a": ITSELF, "b": {"exclusiveMinimum": 0, "maximum": 0.5}}}, "exclusiveMinimum 0"),
        ({"properties": {f"p{i}": ITSELF for i in range(3001)}}, "3000 properties"),
        ({"patternProperties": {f"^{i}$": ITSELF for i in range(201)}}, "200 patterns"),
        ({"properties": {"a": ITSELF, "b": {"$ref": "http://example.org/"}}}, "not a reference"),
        ({"properties": {"a": ITSELF, "b": {"$ref": "#/$defs/b"}}}, "leads nowhere"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_place(schema, message):
    with pytest.raises(InvalidConstraint, match=re.escape(message)):
        standalone_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        ITSELF,
        {"type": "object", "properties": {"next": ITSELF}, "required": ["next"]},
        {"type": "object", "additionalProperties": ITSELF, "required": ["any"]},
        {"type": "array", "items": ITSELF, "minItems": 1},
        {"type": "array", "prefixItems": [{}, ITSELF], "minItems": 2},
        {"anyOf": [ITSELF, {"type": "array", "items": ITSELF, "minItems": 1}]},
        {"allOf": [{"type": "object"}, ITSELF]},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_schema_whose_values_never_end_is_refused(schema):
    with pytest.raises(InvalidConstraint, match="none ever ends"):
        standalone_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": ITSELF}},
        {"type": ["object", "null"], "properties": {"next": ITSELF}, "required": ["next"]},
        {"type": "array", "items": ITSELF},
        {"type": "array", "prefixItems": [{}, ITSELF], "minItems": 1},
        {"anyOf": [ITSELF, {"type": "null"}]},
        {"type": "object", "properties": {"a": False, "next": ITSELF}},
    ],
)
def test_a_schema_whose_values_may_end_is_not(schema):
    standalone_schema(schema)


def test_definitions_that_would_be_too_deep_together_are_refused():
    def chain(length):
        links = {str(i): {"items": {"items": {"$ref": f"#/$defs/{i + 1}"}}} for i in range(length)}
        return {"$ref": "#/$defs/0", "$defs": {**links, str(length): ITSELF}}

    standalone_schema(chain(100))
    with pytest.raises(InvalidConstraint, match="600 levels"):
        standalone_schema(chain(1000))


LEAVES = st.text("ab.\n\"\\é'^-]", max_size=3).map(Literal) | st.text("ab-^]\\\n", min_size=1).map(any_of)
NODES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: Concat(tuple(parts)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda options: Alternate(tuple(options)))
        | st.builds(lambda node, low: Repeat(node, low, low + 1), inner, st.integers(0, 2))
    ),
    max_leaves=6,
)


def sample(node, rng):
    match node:
        case Literal(text):
            return text
        case Concat(parts):
            return "".join(sample(part, rng) for part in parts)
        case Alternate(options):
            return sample(rng.choice(options), rng)
        case Repeat(inner, low, high):
            return "".join(sample(inner, rng) for _ in range(rng.randint(low, high)))
    return chr(rng.choice(rng.choice(node.ranges)))


def as_python(pattern):
    return re.sub(r"\\x\{([0-9a-f]+)\}", lambda match: re.escape(chr(int(match[1], 16))), pattern)


@given(NODES, st.integers())
def test_a_spelled_tree_is_the_same_language(node, seed):
    pattern = re.compile(as_python(spell(node)))
    assert pattern.fullmatch(sample(node, random.Random(seed)))
    assert bool(pattern.fullmatch("")) == matches_nothing_too(node)


def test_ranges_are_spelled_by_their_ends():
    assert spell(chars((ord("a"), ord("z")), (0xE9, 0xE9))) == r"[a-z\x{e9}]"
