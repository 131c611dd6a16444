"""Constraints as values: what they accept, and what they refuse where it is written."""

from __future__ import annotations

import json

import pytest

from ramet.constraints import Cfg, Choice, JsonSchema, Regex
from ramet.errors import InvalidConstraint


def test_a_choice_takes_any_sequence_of_strings_and_keeps_a_tuple():
    assert Choice(["yes", "no"]) == Choice(("yes", "no"))
    assert Choice(["yes", "no"]).choices == ("yes", "no")
    assert hash(Choice(["yes"])) == hash(Choice(("yes",)))
    assert Choice(("a", "a")).choices == ("a", "a")  # harmless


def test_a_schema_may_be_given_as_a_dict_and_is_kept_as_text():
    schema = {"enum": ["é", 1], "type": ["string", "integer"]}
    constraint = JsonSchema(schema)
    assert isinstance(constraint.schema, str)
    assert json.loads(constraint.schema) == schema
    assert constraint == JsonSchema(schema) == JsonSchema(constraint.schema)
    assert JsonSchema(True).schema == "true"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice("abc"), "choices must be a list of strings, got str"),
        (lambda: Choice(None), "choices must be a list of strings, got NoneType"),
        (lambda: Choice({"a"}), "choices must be a list of strings, got set"),
        (lambda: Choice(()), "choices must not be empty"),
        (lambda: Choice((1, 2)), r"choices\[0\] must be a string, got int"),
        (lambda: Choice(("a", "b\ud800")), r"choices\[1\] has a surrogate.* at position 1"),
        (lambda: Regex(5), "regex must be a string, got int"),
        (lambda: Regex("\ud800"), "regex has a surrogate"),
        (lambda: JsonSchema(None), "json_schema must be a string, got NoneType"),
        (lambda: JsonSchema(b"{}"), "json_schema must be a string, got bytes"),
        (lambda: JsonSchema("{}", 5), "whitespace must be a string, got int"),
        (lambda: JsonSchema("{}", "\ud800"), "whitespace has a surrogate"),
        (lambda: JsonSchema('{"const": "\ud800"}'), "json_schema has a surrogate"),
        (lambda: JsonSchema({"const": "\ud800"}), "json_schema has a surrogate"),
        (lambda: JsonSchema({"const": object()}), "json_schema cannot be written as JSON"),
        (lambda: Cfg(5), "grammar must be a string, got int"),
        (lambda: Cfg("\ud800"), "grammar has a surrogate"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(make, message):
    with pytest.raises(InvalidConstraint, match=message):
        make()


def test_dicts_that_nest_for_ever_are_refused():
    schema = {}
    schema["items"] = schema
    with pytest.raises(InvalidConstraint, match="cannot be written as JSON"):
        JsonSchema(schema)
    deep = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(InvalidConstraint, match="cannot be written as JSON"):
        JsonSchema(deep)
