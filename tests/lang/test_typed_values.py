"""Constraints as programs write them, and the values that come back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Literal, TypedDict

import pydantic
import pytest

import ramet as rm
from ramet.lang.backends.mock import MockBackend


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int


@dataclasses.dataclass
class Point:
    x: int
    y: float | None


class Verdict(TypedDict):
    winner: Literal["A", "B", "tie"]
    reason: str


def run(expression, *replies):
    backend = MockBackend(list(replies))

    @rm.function
    def program(s):
        s += "x" + expression

    state = program.run(backend=backend)
    state.sync()
    return state, backend.calls_of("generate")[-1].params


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        (int, "-42", -42),
        (float, "2.5e3", 2500.0),
        (bool, "False", False),
        (str, '"a \\"b\\"\\n"', 'a "b"\n'),
    ],
)
def test_a_dtype_gives_text_and_a_value(dtype, text, value):
    state, params = run(rm.gen("v", dtype=dtype), text)
    assert isinstance(params.constraint, rm.Regex)
    assert (state["v"], state.value("v")) == (text, value)
    assert type(state.value("v")) is dtype


def test_gen_int_and_gen_string_are_gens_with_a_dtype():
    assert run(rm.gen_int("v", 8), "7")[0].value("v") == 7
    assert run(rm.gen_string("v"), '"s"')[0].value("v") == "s"


def test_a_regex_gives_its_text():
    state, params = run(rm.gen("v", regex="[ab]+"), "abba")
    assert params.constraint == rm.Regex("[ab]+")
    assert state.value("v") == state["v"] == "abba"


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, "3", 3),
        ('{"type": "array", "items": {"type": "integer"}}', "[1, 2]", [1, 2]),
        (Person, '{"name": "Ada", "age": 36}', Person(name="Ada", age=36)),
        (Point, '{"x": 1, "y": null}', Point(1, None)),
        (Verdict, '{"winner": "tie", "reason": "equal"}', {"winner": "tie", "reason": "equal"}),
        (list[int], "[1, 2]", [1, 2]),
    ],
)
def test_a_schema_gives_a_value_of_its_type(schema, text, value):
    state, params = run(rm.gen("v", json_schema=schema), text)
    assert isinstance(params.constraint, rm.JsonSchema)
    assert isinstance(json.loads(params.constraint.schema), dict)
    assert state["v"] == text
    assert state.value("v") == value
    assert type(state.value("v")) is type(value)


def test_completions_of_n_are_a_list_of_values():
    class Several(MockBackend):
        async def generate(self, prompt, params):
            (one,) = await super().generate(prompt, params.replace(n=1))
            return [one, dataclasses.replace(one, text="8")]

    backend = Several(["7"])

    @rm.function
    def program(s):
        s += "x" + rm.gen("v", dtype=int, n=2)

    assert program.run(backend=backend).value("v") == [7, 8]


def test_a_variable_without_a_type_is_its_own_value():
    @rm.function
    def program(s):
        s += "x" + rm.gen("text")
        s["mine"] = {"a": 1}

    state = program.run(backend=MockBackend(["42"]))
    assert (state.value("text"), state.value("mine")) == ("42", {"a": 1})
    with pytest.raises(rm.UnknownVariable):
        state.value("nothing")


def test_a_text_that_was_cut_short_says_so():
    @rm.function
    def program(s):
        s += "x" + rm.gen("v", json_schema=Person)

    state = program.run(backend=MockBackend(['{"name": "A']))
    assert state["v"] == '{"name": "A'
    with pytest.raises(rm.ProgramError, match="'v' is not a complete value"):
        state.value("v")


def test_values_can_be_awaited():
    @rm.function
    async def program(s):
        s += "x" + rm.gen("v", dtype=int)
        assert await s.avalue("v") == 5

    asyncio.run(program.arun(backend=MockBackend(["5"])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": list}, "dtype must be int, float, bool or str"),
        ({"regex": 3}, "regex must be a string"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": {"a": object()}}, "json_schema cannot be written as JSON"),
        ({"json_schema": object}, "json_schema must be a schema"),
        ({"json_schema": 7}, "json_schema must be a schema"),
        ({"regex": "a", "dtype": int}, "give one of"),
        ({"regex": "a", "choices": ["a"]}, "give one of"),
        ({"regex": "a", "constraint": rm.Regex("b")}, "give one of"),
        ({"constraint": "a"}, "constraint must be one of Regex"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(arguments, message):
    @rm.function
    def program(s):
        s += rm.gen("v", **arguments)

    with pytest.raises(rm.InvalidRequest, match=message):
        program.run(backend=MockBackend()).sync()
