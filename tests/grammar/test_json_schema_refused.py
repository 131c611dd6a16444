"""Schemas that are refused: with the keyword and the place, and quickly."""

import pytest
from json_language import Language

from ramet.errors import InvalidConstraint
from ramet.grammar.automaton import build_dfa
from ramet.grammar.json_schema import RecursiveSchema, schema_to_node

STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def objects(properties, required=(), **keywords):
    return {"type": "object", "properties": properties, "required": list(required), **keywords}


REFUSED = [
    # keywords
    (objects({"a": {"not": STRING}}), "#/properties/a/not: the keyword not is not supported"),
    ({"if": {}, "then": {}}, "#/if: "),
    ({"dependentRequired": {"a": ["b"]}}, "#/dependentRequired: "),
    ({"type": "array", "contains": INTEGER}, "#/contains: "),
    ({"type": "object", "unevaluatedProperties": True}, "#/unevaluatedProperties: "),
    ({"type": "string", "contentEncoding": "base64"}, "#/contentEncoding: "),
    ({"type": "string", "maxlength": 3}, "#/maxlength: the keyword 'maxlength' is unknown"),
    ({"a/b~": 1}, "#/a~1b~0: "),
    ({"type": "string", "nullable": True}, '#/nullable: nullable is not JSON Schema; add "null"'),
    ({"type": "array", "uniqueItems": True}, "#/uniqueItems: it is not enforced"),
    (objects({"a": {"$id": "http://x/"}}), "#/properties/a/$id: "),
    ({"type": "integer", "minLength": 1}, "#/minLength: minLength says nothing about values of type integer"),
    ({"type": ["string", "null"], "maximum": 1}, "#/maximum: maximum says nothing about"),
    ({"enum": ["a"], "pattern": "a"}, "#/pattern: pattern is not checked beside enum"),
    ({"type": "object", "minProperties": 2}, "#/minProperties: only 0 and 1"),
    (objects({"a": {}, "b": {}}, maxProperties=1), "#/maxProperties: fewer than there are"),
    (objects({"a": {}}, patternProperties={"^b": {}}), "#/patternProperties: "),
    ({"type": "object", "patternProperties": {"a": {}, "b": {}}}, "#/patternProperties: "),
    (objects({"a": {}}, propertyNames={"maxLength": 3}), "#/propertyNames: "),
    # values of the wrong kind
    (3, "#: a schema must be an object or a boolean, got 3"),
    ({"type": "text"}, "#/type: must be one or more of null, boolean"),
    ({"type": []}, "#/type: must be one or more of"),
    ({"enum": []}, "#/enum: must be an array of at least one value"),
    ({"properties": [1]}, "#/properties: must be an object of schemas"),
    ({"properties": {"a": 1}}, "#/properties: must be an object of schemas"),
    ({"required": True}, "#/required: must be an array of strings, got a boolean"),
    ({"anyOf": []}, "#/anyOf: must be an array of schemas, got an empty array"),
    ({"prefixItems": [{}], "items": [{}]}, "#/items: must be a schema beside prefixItems"),
    ({"enum": [10**5000]}, "#/enum: it holds an integer of too many digits"),
    ({"minimum": 10**5000}, "#/minimum: must be a number, got an integer of very many digits"),
    ({"enum": [float("nan")]}, "#/enum: JSON cannot write the number nan"),
    ({"enum": ["\ud800"]}, "half of a surrogate pair"),
    (objects({"\ud800": {}}), "half of a surrogate pair"),
    # no value at all
    (False, "#: the schema is false; no value is valid"),
    (objects({"a": False}, ["a"]), "#/required: 'a' is required and not allowed"),
    (objects({}, ["a"], additionalProperties=False), "#/required: 'a' is required and not allowed"),
    ({"type": "array", "minItems": 3, "maxItems": 2}, "at least 3 and at most 2 items"),
    ({"prefixItems": [{}], "items": False, "minItems": 2}, "at least 2 and at most 1 items"),
    (objects({"a": {}, "b": {}}, ["a", "b"], maxProperties=1), "at least 2 properties"),
    (objects({"a": {}}, minProperties=2), "at least 2 properties"),
    ({"type": "string", "enum": [1]}, "#/enum: the other keywords rule out all its values"),
    ({"const": 1, "enum": [2]}, "#/const: it is not among the values of enum"),
    ({"const": 1, "enum": [True]}, "#/const: it is not among the values of enum"),
    ({"allOf": [STRING, INTEGER]}, "#/type: string and integer must both hold"),
    ({"type": "string", "anyOf": [INTEGER, {"type": "null"}]}, "#/anyOf: the other keywords rule out each"),
    # alternatives that are not disjoint, schemas that cannot be joined
    ({"oneOf": [INTEGER, {"type": "number"}]}, "#/oneOf/1: a value might be valid here and at #/oneOf/0 too"),
    ({"oneOf": [STRING, {"const": "a"}]}, "#/oneOf/1: "),
    ({"oneOf": [objects({"a": INTEGER}), objects({"b": INTEGER})]}, "#/oneOf/1: "),
    ({"oneOf": [{"properties": {"a": INTEGER}}, STRING]}, "#/oneOf/1: "),
    ({"oneOf": [{}, {"type": "null"}]}, "#/oneOf/1: "),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "#/pattern: two schemas that must both hold"),
    ({"allOf": [{"anyOf": [STRING]}, {"anyOf": [INTEGER]}]}, "#/anyOf: two schemas that must both hold"),
    ({"allOf": [{"prefixItems": [STRING]}, {"items": STRING}]}, "prefixItems cannot be joined"),
    # references
    ({"$ref": "#/$defs/a"}, "#/$ref: '#/$defs/a' leads nowhere: there is no #/$defs"),
    ({"$ref": "other.json"}, "#/$ref: 'other.json' is not a reference into this document"),
    ({"$ref": "#anchor"}, "#/$ref: '#anchor' is not a reference into this document"),
    ({"$ref": "#/$defs/a", "$defs": {"a": 3}}, "#/$defs/a: a schema must be"),
    ({"$defs": {"a": {"not": {}}}, "items": {"$ref": "#/$defs/a"}}, "#/$defs/a/not: "),
]


@pytest.mark.parametrize(("schema", "told"), REFUSED, ids=[told[:50] for _, told in REFUSED])
def test_refusals(schema, told):
    with pytest.raises(InvalidConstraint) as error:
        schema_to_node(schema)
    assert told in str(error.value) and not isinstance(error.value, RecursiveSchema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"$ref": "#"}},
        objects({"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}),
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/t", "$defs": {"t": objects({"kids": {"items": {"$ref": "#/$defs/t"}}})}},
        {"allOf": [objects({"a": {"$ref": "#"}}), objects({"b": INTEGER})]},
        objects({"a": {"properties": {"b": {"$ref": "#/properties/a"}}}}),
        {"oneOf": [{"type": "null"}, {"items": {"$ref": "#"}}]},
    ],
)
def test_recursion_is_told_apart(schema):
    with pytest.raises(RecursiveSchema, match="refers to itself"):
        schema_to_node(schema)


# -------------------------------------------------------------------------------------------- hostile schemas


def nested(depth, inner, wrap):
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def chained(depth, wrap):
    """Definitions that each refer to the one before, twice."""
    names = [f"d{number}" for number in range(depth)]
    refs = [{"$ref": f"#/$defs/{name}"} for name in names]
    definitions = {name: wrap(ref) for name, ref in zip(names[1:], refs, strict=False)}
    return {"$ref": f"#/$defs/{names[-1]}", "$defs": {"d0": INTEGER, **definitions}}


HOSTILE = {
    "arrays": nested(10_000, INTEGER, lambda inner: {"type": "array", "items": inner}),
    "objects": nested(10_000, INTEGER, lambda inner: objects({"a": inner})),
    "allOf": nested(10_000, INTEGER, lambda inner: {"allOf": [inner]}),
    "constant": {"const": nested(10_000, 1, lambda inner: [inner])},
    "49 arrays": nested(49, INTEGER, lambda inner: {"items": inner}),
    "anyOf": nested(49, INTEGER, lambda inner: {"anyOf": [inner]}),
    "long chain": chained(300, lambda ref: ref),
    "object fan": chained(40, lambda ref: objects({"a": ref, "b": ref})),
    "array fan": chained(40, lambda ref: {"prefixItems": [ref, ref]}),
    "anyOf fan": chained(40, lambda ref: {"anyOf": [{"items": ref}, {"prefixItems": [ref]}], "minItems": 1}),
    "allOf fan": chained(40, lambda ref: {"allOf": [ref, ref, {"maximum": 5}]}) | {"minimum": 9},
    "oneOf fan": chained(
        40, lambda ref: {"oneOf": [{"items": ref}, {"properties": {"a": ref}}], "title": "t"}
    ),
    "many items": {"type": "array", "items": STRING, "minItems": 10**9},
    "long string": {"type": "string", "maxLength": 10**9},
    "many pairs": {"oneOf": [{"const": f"c{number}"} for number in range(2000)]},
    "large joins": {"anyOf": [{"required": ["p"]}] * 1000, "properties": {f"p{n}": {} for n in range(1000)}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_refused(name):
    with pytest.raises(InvalidConstraint):
        build_dfa(schema_to_node(HOSTILE[name]))


def test_depth_within_reason_is_fine():
    language = Language(nested(40, INTEGER, lambda inner: objects({"a": inner}, ["a"])))
    assert language.has(nested(40, 1, lambda inner: {"a": inner}))
    language = Language({"const": nested(60, 1, lambda inner: [inner])})
    assert language.has(nested(60, 1, lambda inner: [inner]))
