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


class Cut(MockBackend):
    """Its completions end the way they are told to."""

    def __init__(self, replies, **ending):
        super().__init__(replies)
        self.ending = ending

    async def generate(self, prompt, params):
        completions = await super().generate(prompt, params)
        return [dataclasses.replace(one, **self.ending) for one in completions]


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ({"finish_reason": "length"}, "max_tokens cut it short"),
        ({"stop_reason": "0"}, "stop '0' cut it short"),
        ({"stop_reason": 17}, "stop 17 cut it short"),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dtype": int}, "12"),
        ({"dtype": bool}, "True"),
        ({"json_schema": {"type": "integer"}}, "12"),
        ({"json_schema": list[int]}, "[1]"),
    ],
)
def test_the_beginning_of_a_value_is_no_value_even_if_it_parses(arguments, text, ending, why):
    @rm.function
    def program(s):
        s += "x" + rm.gen("v", **arguments)

    state = program.run(backend=Cut([text], **ending))
    assert state["v"] == text
    with pytest.raises(rm.ProgramError, match=f"'v' is not a complete value .{why}"):
        state.value("v")


def test_a_regex_and_a_constraint_give_what_was_written_also_where_it_was_cut():
    @rm.function
    def program(s):
        s += "x" + rm.gen("v", regex="[0-9]{8}") + rm.gen("w", constraint=rm.Regex("[0-9]{8}"))

    state = program.run(backend=Cut(["12", "34"], finish_reason="length"))
    assert (state.value("v"), state.value("w")) == ("12", "34")


def test_a_bool_is_true_or_false_and_nothing_else():
    state, _ = run(rm.gen("v", dtype=bool), "T")
    with pytest.raises(rm.ProgramError, match="'T' is neither True nor False"):
        state.value("v")


def test_values_keep_their_types_when_forks_are_joined():
    point = '{"x": 1, "y": 2.5}'

    def reply(prompt, params):
        return {rm.JsonSchema: point, rm.Regex: "7"}.get(type(params.constraint), "free")

    @rm.function
    def program(s):
        s += "x"
        with s.fork(3) as forks:
            forks[0] += rm.gen("v", dtype=int) + rm.gen("free")
            forks[1] += rm.gen("v", json_schema=Point, n=2)
            with forks[2].copy() as inner:
                inner += rm.gen("v", dtype=float)
            forks[2]["free"] = [8]
        with s.copy() as draft:
            draft += rm.gen("draft", dtype=int)

    state = program.run(backend=MockBackend(reply))
    assert state["v"] == ["7", [point, point], ["7"]]
    assert state.value("v") == [7, [Point(1, 2.5), Point(1, 2.5)], [7.0]]
    assert state.value("free") == state["free"] == ["free", [8]]
    assert state.value("draft") == [7]


def test_a_value_that_a_fork_has_cut_short_is_refused_after_the_join():
    @rm.function
    def program(s):
        s += "x"
        with s.fork(2) as forks:
            forks += rm.gen("v", dtype=int)

    state = program.run(backend=Cut(["1", "2"], finish_reason="length"))
    assert state["v"] == ["1", "2"]
    with pytest.raises(rm.ProgramError, match="max_tokens cut it short"):
        state.value("v")


def test_a_constraint_of_the_run_is_for_every_gen_that_has_none():
    @rm.function
    def program(s):
        s += "x" + rm.gen("a") + rm.gen("b", dtype=int) + rm.gen("c")

    backend = MockBackend(["yes", "3", "no"])
    choice = rm.Choice(["yes", "no"])
    program.run(backend=backend, constraint=choice).sync()
    first, second, third = [call.params.constraint for call in backend.calls_of("generate")]
    assert first == third == choice
    assert isinstance(second, rm.Regex)


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
        ({"json_schema": "[" * 100_000}, "json_schema is not JSON"),
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
