"""Each keyword of JSON Schema: what it lets through, what it keeps out, what is refused."""

import itertools
import json

import pytest
from json_language import Language

from ramet.errors import InvalidConstraint
from ramet.grammar.json_schema import schema_to_node
from ramet.grammar.nodes import Concat, Literal, Repeat, any_of

STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def objects(properties, required=(), **keywords):
    return {"type": "object", "properties": properties, "required": list(required), **keywords}


VALID_AND_NOT = [
    # type
    ({"type": "null"}, [None], [0, "", False, []]),
    ({"type": "boolean"}, [True, False], [0, 1, None, "true"]),
    ({"type": "integer"}, [0, -7, 12345], [1.5, "1", True, None]),
    ({"type": "number"}, [0, -7, 1.5, 1e-7, 1e20], ["1", True]),
    ({"type": "string"}, ["", "a", 'q"\\\n'], [1, None]),
    ({"type": "array"}, [[], [1, "a", None, [1], {"a": 1}]], [{}, [[[1]]]]),
    ({"type": "object"}, [{}, {"a": 1, "b": [1], "": {"c": None}}], [[], {"a": [[1]]}]),
    ({"type": ["string", "null"]}, ["", "x", None], [1, [], {}]),
    ({"type": ["integer", "number"]}, [1, 1.5], ["1"]),
    # any value, two levels deep
    (True, [1, "a", None, [1, [2]], {"a": {"b": 1}}, [{"a": 1}]], [[[[1]]], {"a": {"b": {"c": 1}}}]),
    ({}, [1, [1, [2]]], [[[[1]]]]),
    ({"title": "T", "description": "D", "default": 3, "examples": [1], "x-order": 1}, [1, "a"], []),
    # enum, const
    (
        {"enum": ["a", 1, None, True, [1, {"k": "v"}], {}]},
        ["a", 1, None, True, [1, {"k": "v"}], {}],
        ["b", 2, False],
    ),
    ({"const": {"b": [1.5, "é\n"], "a": {}}}, [{"b": [1.5, "é\n"], "a": {}}], [{"a": {}, "b": [1.5, "é\n"]}]),
    ({"type": "string", "enum": ["a", 1, None]}, ["a"], [1, None]),
    ({"type": "number", "enum": [1, 1.5, "a"]}, [1, 1.5], ["a"]),
    ({"type": "integer", "enum": [1, 2.0, 1.5]}, [1, 2.0], [1.5, 2]),
    ({"const": "cat", "enum": ["cat"]}, ["cat"], ["dog"]),
    ({"enum": [1, 5, 9], "minimum": 2, "exclusiveMaximum": 9}, [5], [1, 9]),
    ({"enum": ["a", "bb", "ccc"], "minLength": 2, "maxLength": 2}, ["bb"], ["a", "ccc"]),
    # objects
    (objects({"a": STRING}), [{}, {"a": "x"}], [{"a": 1}, {"b": "x"}, {"a": "x", "b": 1}]),
    (objects({"a": STRING}, ["a"]), [{"a": "x"}], [{}]),
    (objects({}), [{}], [{"a": 1}]),
    (
        objects({"a": INTEGER, "b": INTEGER}, ["b"]),
        [{"b": 1}, {"a": 1, "b": 2}],
        [{"a": 1}, {"b": 1, "a": 1}],
    ),
    (objects({'q"\\\n': INTEGER}, ['q"\\\n']), [{'q"\\\n': 1}], [{}]),
    (objects({"a": INTEGER}, ["b"]), [{"b": [1]}, {"a": 1, "b": "x"}], [{}, {"a": 1}]),
    ({"type": "object", "required": ["b"]}, [{"b": 1}], [{}, {"a": 1}]),
    (objects({"a": INTEGER, "b": False}), [{}, {"a": 1}], [{"b": 1}]),
    ({"properties": {"a": INTEGER}}, [{}, {"a": 1}], ["x", {"a": "x"}]),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
    ({"type": "object", "additionalProperties": INTEGER}, [{}, {"a": 1}, {"b": 1, "": 2}], [{"a": "x"}]),
    (
        objects({"ab": STRING, "abc": STRING, "x": STRING}, ["x"], additionalProperties=INTEGER),
        [{"x": ""}, {"ab": "", "x": "", "a": 1}, {"x": "", "": 1, "abd": 2, "abcd": 3, '"': 4}],
        [{"x": "", "ab": 1}, {"x": "", "abc": 1}, {"ab": ""}, {"a": 1, "x": ""}, {"x": "", "a": "1"}],
    ),
    (
        objects({"a": STRING}, additionalProperties=INTEGER),
        [{}, {"b": 1}, {"a": "", "b": 1, "c": 2}],
        [{"a": 1}],
    ),
    (objects({"a": STRING}, additionalProperties=True), [{"a": ""}, {"b": [1]}], [{"a": 1}, {"b": [[1]]}]),
    (
        {"type": "object", "patternProperties": {"^x-": INTEGER}, "additionalProperties": False},
        [{}, {"x-a": 1}, {"x-a": 1, "x-": 2}],
        [{"a": 1}, {"x-a": "1"}],
    ),
    (
        {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": INTEGER},
        [{}, {"a": 1, "bc": 2}],
        [{"A": 1}, {"": 1}],
    ),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [{}, {"b": 1, "a": 2}], [{"c": 1}]),
    ({"type": "object", "minProperties": 1}, [{"a": 1}, {"a": 1, "b": 2}], [{}]),
    ({"type": "object", "maxProperties": 2}, [{}, {"a": 1, "b": 2}], [{"a": 1, "b": 2, "c": 3}]),
    ({"type": "object", "maxProperties": 0}, [{}], [{"a": 1}]),
    (objects({"a": INTEGER, "b": INTEGER}, minProperties=1), [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}], [{}]),
    (objects({"a": INTEGER, "b": INTEGER}, ["a"], minProperties=1, maxProperties=2), [{"a": 1}], [{"b": 1}]),
    (
        objects({"a": INTEGER}, additionalProperties=INTEGER, maxProperties=2, minProperties=1),
        [{"a": 1}, {"a": 1, "b": 2}, {"b": 1}],
        [{}, {"a": 1, "b": 2, "c": 3}],
    ),
    # arrays
    ({"type": "array", "items": INTEGER}, [[], [1], [1, 2, 3]], [["a"], [1, None]]),
    ({"type": "array", "items": INTEGER, "minItems": 2}, [[1, 2], [1, 2, 3]], [[], [1]]),
    ({"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    ({"type": "array", "items": INTEGER, "maxItems": 1}, [[], [1]], [[1, 2]]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"type": "array", "items": False}, [[]], [[1]]),
    ({"type": "array", "uniqueItems": False, "items": INTEGER}, [[1, 1]], []),
    ({"type": "array", "uniqueItems": True, "items": INTEGER, "maxItems": 1}, [[], [1]], [[1, 1]]),
    ({"prefixItems": [INTEGER, STRING]}, [[], [1], [1, "a"]], [["a"], [1, 1], [1, "a", 1]]),
    ({"prefixItems": [INTEGER, STRING], "minItems": 2}, [[1, "a"]], [[], [1]]),
    ({"prefixItems": [INTEGER, STRING], "minItems": 3, "maxItems": 3}, [[1, "a", None]], [[1, "a"]]),
    ({"prefixItems": [INTEGER, STRING], "items": False}, [[], [1], [1, "a"]], [[1, "a", 1]]),
    ({"prefixItems": [INTEGER, STRING], "maxItems": 1}, [[], [1]], [[1, "a"]]),
    ({"prefixItems": [INTEGER], "items": STRING}, [[], [1], [1, "a", "b"]], [["a"], [1, 2]]),
    (
        {"prefixItems": [INTEGER], "items": STRING, "minItems": 2, "maxItems": 3},
        [[1, "a"], [1, "a", "b"]],
        [[1]],
    ),
    ({"items": [INTEGER, STRING], "additionalItems": False}, [[1, "a"]], [[1, "a", 1]]),
    ({"items": [INTEGER], "additionalItems": STRING}, [[1], [1, "a", "b"]], [[1, 2]]),
    ({"type": "array", "prefixItems": [INTEGER] * 9}, [[1] * n for n in range(10)], [[1] * 10, [1, "a"]]),
    # anyOf, oneOf, allOf
    ({"anyOf": [STRING, {"type": "null"}]}, ["a", None], [1]),
    ({"anyOf": [{"const": 1}, INTEGER, False]}, [1, 2], ["a"]),
    ({"type": "integer", "anyOf": [{"maximum": 1}, {"minimum": 5}]}, [0, 1, 5], [2, 4]),
    (
        {"type": "string", "anyOf": [{"type": "integer"}, {"const": "a"}, {"maxLength": 0}]},
        ["a", ""],
        ["b", 1],
    ),
    (
        objects({"a": INTEGER, "b": INTEGER}, anyOf=[{"required": ["a"]}, {"required": ["b"]}]),
        [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}],
        [{}],
    ),
    ({"oneOf": [STRING, INTEGER, {"type": "null"}]}, ["a", 1, None], [1.5]),
    ({"oneOf": [{"const": "a"}, {"const": "b"}, {"enum": ["c", 1]}]}, ["a", "b", "c", 1], ["d"]),
    (
        {
            "oneOf": [
                objects({"kind": {"const": "a"}, "x": INTEGER}, ["kind"]),
                objects({"kind": {"const": "b"}, "y": INTEGER}, ["kind"]),
            ],
            "discriminator": {"propertyName": "kind"},
        },
        [{"kind": "a"}, {"kind": "b", "y": 1}],
        [{"kind": "a", "y": 1}, {"kind": "c"}, {}],
    ),
    (
        {"oneOf": [objects({k: INTEGER}, [k], additionalProperties=False) for k in "ab"]},
        [{"a": 1}, {"b": 1}],
        [{}, {"a": 1, "b": 1}],
    ),
    ({"oneOf": [{"anyOf": [STRING, {"type": "null"}]}, INTEGER]}, ["a", None, 1], [True]),
    ({"allOf": [STRING], "description": "d"}, ["a"], [1]),
    ({"allOf": [INTEGER, {"minimum": 2, "maximum": 9}, {"maximum": 5}]}, [2, 5], [1, 6, "a"]),
    ({"allOf": [{"type": ["string", "integer"]}, {"type": ["number", "null"]}]}, [1], ["a", 1.5, None]),
    ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 2, 9]}]}, [2, 3], [1, 9]),
    (
        {"allOf": [objects({"a": INTEGER}, ["a"]), objects({"b": STRING, "a": {"minimum": 3}})]},
        [{"a": 3}, {"a": 3, "b": ""}],
        [{"a": 2}, {}, {"b": ""}],
    ),
    (
        {
            "allOf": [
                objects({"a": INTEGER}, additionalProperties=False),
                objects({"a": INTEGER, "b": STRING}),
            ]
        },
        [{}, {"a": 3}],
        [{"b": ""}],
    ),
    (
        {
            "allOf": [
                objects({"a": INTEGER}, additionalProperties=STRING),
                objects({"b": {"maxLength": 1}}, ["b"]),
            ]
        },
        [{"b": "x"}, {"a": 1, "b": "", "c": "long"}],
        [{"b": "xx"}, {"b": 1}, {}],
    ),
    # $ref
    ({"$ref": "#/$defs/a", "$defs": {"a": INTEGER}}, [1], ["a"]),
    ({"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": INTEGER}}, [1], ["a"]),
    ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": INTEGER}}, [3], [2, "a"]),
    (objects({"a": INTEGER, "b": {"$ref": "#/properties/a"}}), [{"a": 1, "b": 2}], [{"b": "x"}]),
    ({"$defs": {"x": [STRING, INTEGER]}, "$ref": "#/$defs/x/1"}, [1], ["a"]),
    (
        objects({"$ref": {"$ref": "#/$defs/n"}, "not": {"$ref": "#/$defs/n"}}, **{"$defs": {"n": INTEGER}}),
        [{"$ref": 1, "not": 2}],
        [{"$ref": "x"}],
    ),
]


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"), VALID_AND_NOT, ids=lambda value: json.dumps(value)[:60]
)
def test_what_a_schema_lets_through(schema, valid, invalid):
    language = Language(schema)
    assert [value for value in valid if not language.has(value)] == []
    assert [value for value in invalid if language.has(value)] == []


@pytest.mark.parametrize("required", [(), (0,), (4,), (1, 3), (0, 1, 2, 3, 4)], ids=str)
def test_the_commas_are_right_for_every_choice_of_properties(required):
    """All texts that can be made of the properties and commas, the right ones and the wrong ones."""
    keys = "abcde"
    language = Language(objects({key: {"const": 1} for key in keys}, [keys[i] for i in required]))
    for chosen in itertools.product([True, False], repeat=5):
        present = [key for key, is_present in zip(keys, chosen, strict=True) if is_present]
        value = dict.fromkeys(present, 1)
        text = json.dumps(value)
        assert (text in language) == all(chosen[i] for i in required)
        for wrong in (
            text.replace("{", "{, "),
            text.replace("}", ", }"),
            text.replace(", ", ",,"),
            text[:-1],
        ):
            assert wrong == text or wrong not in language
        assert len(present) < 2 or text.replace(", ", " ") not in language


def test_many_optional_properties_do_not_explode():
    properties = {f"option_{number}": {"type": "boolean"} for number in range(120)}
    language = Language(objects(properties))
    assert language.has({}) and language.has(dict.fromkeys(properties, True))
    assert language.has({"option_7": True, "option_119": False}) and language.dfa.num_states < 3000


def test_an_object_has_its_properties_in_the_order_of_the_schema():
    language = Language(objects({"b": INTEGER, "a": INTEGER}, ["a", "b"]))
    assert '{"b": 1, "a": 2}' in language and '{"a": 2, "b": 1}' not in language


# ------------------------------------------------------------------------------------------------- whitespace


def test_whitespace_is_as_python_writes_it_unless_asked_for():
    language = Language(objects({"a": {"type": "array", "items": INTEGER}, "b": INTEGER}))
    assert '{"a": [1, 2], "b": 3}' in language
    for text in (
        '{"a":[1,2],"b":3}',
        '{"a": [1,2], "b": 3}',
        '{ "a": [1, 2], "b": 3}',
        '{"a": [1, 2], "b": 3} ',
    ):
        assert text not in language


def test_whitespace_may_stand_between_the_parts_of_a_value():
    schema = objects(
        {"a": {"type": "array", "items": INTEGER}, "b": {"const": {"c": [1]}}}, additionalProperties=True
    )
    language = Language(schema, Repeat(any_of(" \n"), 0, 4))
    for value in ({"a": [1, 2], "b": {"c": [1]}}, {}, {"a": []}, {"x": {"y": None}}):
        for options in ({}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" , ", "  :\n")}):
            text = json.dumps(value, **options)
            assert text in language, text
            assert text + " " not in language and " " + text not in language
    for text in ('{"a":     [1]}', '{"a":\t[1]}', '{"a": [1 2]}', '{"a": [1 0]}', '{"b": {"c": [1], }}'):
        assert text not in language, text


def test_no_whitespace_at_all():
    language = Language({"type": "object", "additionalProperties": {"items": INTEGER}}, Literal(""))
    assert '{"a":[1,2],"b":[]}' in language and '{"a": [1,2],"b":[]}' not in language


@pytest.mark.parametrize(
    "node", [any_of(" x"), Concat((Literal(" "), Repeat(Literal("\u00a0"), 0, 1)))], ids=str
)
def test_whitespace_that_json_does_not_allow(node):
    with pytest.raises(InvalidConstraint, match="whitespace must match spaces"):
        schema_to_node({}, node)


def test_a_definition_may_be_used_many_times():
    address = objects({"street": STRING, "city": STRING}, ["street"])
    schema = objects(
        {f"p{n}": {"$ref": "#/$defs/address"} for n in range(30)}, **{"$defs": {"address": address}}
    )
    assert Language(schema).has({"p3": {"street": "x"}, "p29": {"street": "y", "city": "z"}})
