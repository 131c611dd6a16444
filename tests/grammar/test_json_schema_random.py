"""Random schemas of the keywords that are enforced, against the package jsonschema.

Every text of a language is a valid value; every value that a schema is about (properties in its order,
nothing that it does not name) has its text in the language.
"""

import json

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st
from json_language import Language

from ramet.grammar.nodes import Repeat, any_of

TEXT = st.text(st.sampled_from('ab"\\\né🐈'), max_size=4)
KEYS = st.lists(st.sampled_from(["a", "b", "ab", 'q"', "é", ""]), unique=True, max_size=4)


# Each strategy gives a schema and a strategy for values that it is about.


@st.composite
def strings(draw):
    least, more = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    pattern = draw(st.sampled_from([None, None, "^a", "b$", "^[ab]*$", '"', "^(a|b\\\\)$"]))
    schema = {"type": "string"}
    if pattern:
        schema["pattern"] = pattern
        return schema, st.from_regex(pattern).filter(lambda text: text.isascii() and not text.endswith("\n"))
    if draw(st.booleans()):
        schema |= {"minLength": least, "maxLength": least + more}
        return schema, st.text(max_size=least + more, min_size=least)
    return schema, TEXT


@st.composite
def numbers(draw):
    kind = draw(st.sampled_from(["integer", "number"]))
    low, size = draw(st.integers(-2000, 2000)), draw(st.integers(0, 3000))
    schema = {"type": kind}
    if draw(st.booleans()):
        schema |= {"minimum": low, "maximum": low + size}
        values = st.integers(low, low + size)
    else:
        values = st.integers(-(10**17), 10**17)
    if kind == "number":
        decimals = st.decimals(low, low + size, places=3).map(float).filter(lambda x: x != 0)
        values = values | decimals.filter(lambda x: low <= x <= low + size)
    return schema, values


@st.composite
def constants(draw):
    values = draw(st.lists(st.none() | st.booleans() | st.integers(-9, 9) | TEXT, min_size=1, max_size=4))
    return {"enum": values}, st.sampled_from(values)


@st.composite
def arrays(draw, inner):
    items, values = draw(inner)
    least, more = draw(st.integers(0, 2)), draw(st.integers(0, 2) | st.none())
    schema = {"type": "array", "items": items, "minItems": least}
    if more is not None:
        schema["maxItems"] = least + more
    return schema, st.lists(values, min_size=least, max_size=least + (2 if more is None else more))


@st.composite
def tuples(draw, inner):
    parts = draw(st.lists(inner, min_size=1, max_size=3))
    least = draw(st.integers(0, len(parts)))
    schema = {"type": "array", "prefixItems": [part for part, _ in parts], "minItems": least}
    lengths = st.integers(least, len(parts))
    return schema, st.builds(
        lambda length, values: list(values[:length]), lengths, st.tuples(*(values for _, values in parts))
    )


@st.composite
def objects(draw, inner):
    members = {key: draw(inner) for key in draw(KEYS)}
    required = [key for key in members if draw(st.booleans())]
    further = draw(st.sampled_from([None, False, "schema"]))
    schema = {"type": "object", "properties": {key: part for key, (part, _) in members.items()}}
    schema["required"] = required
    extra = st.just({})
    if further == "schema":
        part, values = draw(inner)
        schema["additionalProperties"] = part
        extra = st.dictionaries(TEXT.filter(lambda key: key not in members), values, max_size=2)
    elif further is False:
        schema["additionalProperties"] = False
    named = st.fixed_dictionaries({key: values for key, (_, values) in members.items()})
    absent = st.sets(st.sampled_from([*members, None])).map(lambda keys: keys - set(required))

    def whole(given, absent, rest):
        return {key: given[key] for key in members if key not in absent} | rest

    return schema, st.builds(whole, named, absent, extra)


@st.composite
def alternatives(draw, inner):
    parts = draw(st.lists(inner, min_size=1, max_size=3))
    schema = {"anyOf": [part for part, _ in parts]}
    return schema, st.one_of(*(values for _, values in parts))


@st.composite
def tagged(draw, inner):
    """oneOf of objects that a constant tells apart."""
    parts = draw(st.lists(inner, min_size=1, max_size=3))
    options = [
        {
            "type": "object",
            "properties": {"kind": {"const": index}, "value": part},
            "required": ["kind", "value"],
        }
        for index, (part, _) in enumerate(parts)
    ]
    values = [st.builds(dict, kind=st.just(index), value=values) for index, (_, values) in enumerate(parts)]
    return {"oneOf": options}, st.one_of(*values)


@st.composite
def joined(draw, inner):
    """allOf of two objects, one of which refers to a definition."""
    (one, ones), (two, twos) = draw(inner), draw(inner)
    schema = {
        "allOf": [
            {"type": "object", "properties": {"x": one}, "required": ["x"]},
            {"properties": {"y": two}, "required": ["y"]},
        ]
    }
    return schema, st.builds(lambda x, y: {"x": x, "y": y}, ones, twos)


NULL, BOOLEAN = st.just(({"type": "null"}, st.none())), st.just(({"type": "boolean"}, st.booleans()))
SIMPLE = st.one_of(strings(), numbers(), constants(), NULL, BOOLEAN)
SCHEMAS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        arrays(inner),
        tuples(inner),
        objects(inner),
        objects(inner),
        alternatives(inner),
        tagged(inner),
        joined(inner),
    ),
    max_leaves=6,
)


def is_valid(schema, value):
    return jsonschema.Draft202012Validator(schema).is_valid(value)


@given(SCHEMAS, st.randoms(use_true_random=False), st.data())
@settings(max_examples=150, deadline=None)
def test_random_schemas(schema_and_values, rng, data):
    schema, values = schema_and_values
    jsonschema.Draft202012Validator.check_schema(schema)
    language = Language(schema)
    for length in (0, 20, 100):
        text = language.sample(rng, length)
        assert is_valid(schema, json.loads(text)), text
    for _ in range(2):
        value = data.draw(values)
        assert is_valid(schema, value)
        assert language.has(value), json.dumps(value)


@given(SCHEMAS, SCHEMAS, st.data())
@settings(max_examples=80, deadline=None)
def test_values_of_another_schema_are_let_through_only_if_they_are_valid(one, other, data):
    value = data.draw(other[1])
    if Language(one[0]).has(value):
        assert is_valid(one[0], value)


@given(SCHEMAS, st.randoms(use_true_random=False), st.data())
@settings(max_examples=50, deadline=None)
def test_whitespace_changes_no_values(schema_and_values, rng, data):
    schema, values = schema_and_values
    language = Language(schema, Repeat(any_of(" \n"), 0, 2))
    assert is_valid(schema, json.loads(language.sample(rng, 60)))
    value = data.draw(values)
    assert language.has(value)
    assert json.dumps(value, ensure_ascii=False, separators=(" ,\n", "\n:  ")) in language


@given(SCHEMAS)
@settings(max_examples=30, deadline=None)
def test_a_definition_is_what_it_defines(schema_and_values):
    schema, _ = schema_and_values
    through = Language({"$ref": "#/$defs/it", "$defs": {"it": schema}})
    assert (through.dfa.transitions == Language(schema).dfa.transitions).all()
