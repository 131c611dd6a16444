"""Numbers between bounds, against Python's own."""

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_language import Language

from ramet.errors import InvalidConstraint
from ramet.grammar.json_numbers import decimals, integers
from ramet.grammar.json_schema import schema_to_node

SMALL = range(-130, 131)


def test_small_ranges_of_integers_hold_exactly_their_numbers():
    rng = random.Random(1)
    for low in range(-50, 51):
        for high in rng.sample(range(low, 51), min(4, 51 - low)):
            language = Language.of_node(integers(low, high))
            assert [n for n in SMALL if str(n) in language] == list(range(low, high + 1)), (low, high)


@given(st.integers(-(10**30), 10**30), st.integers(0, 10**30) | st.integers(0, 1000), st.data())
@settings(max_examples=60, deadline=None)
def test_large_ranges_of_integers(low, size, data):
    high = low + size
    language = Language.of_node(integers(low, high))
    near = [bound + step for bound in (low, high) for step in (-11, -10, -9, -1, 0, 1, 9, 10, 11)]
    powers = [
        sign * 10**exponent + step for sign in (1, -1) for exponent in (1, 5, 29, 30) for step in (-1, 0)
    ]
    inside = [data.draw(st.integers(low, high)) for _ in range(5)]
    for number in [*near, *powers, *inside, 0, low * 10, high * 10, low // 10, high // 10]:
        assert (str(number) in language) == (low <= number <= high), (low, number, high)


@pytest.mark.parametrize("text", ["-0", "00", "01", "+1", "1.0", "1e1", "", "-", " 1"])
def test_integers_are_written_in_one_way(text):
    assert text not in Language({"type": "integer"})


def test_integers_without_a_bound_end_after_eighteen_digits():
    language = Language({"type": "integer"})
    assert "9" * 18 in language and "-" + "9" * 18 in language and "1" * 19 not in language
    language = Language({"type": "integer", "minimum": 10**20})
    assert str(10**20) in language and str(10**20 - 1) not in language and "9" * 22 in language


@pytest.mark.parametrize(
    ("keywords", "members"),
    [
        ({"minimum": 1, "maximum": 3}, [1, 2, 3]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, [2]),
        ({"minimum": 0.5, "maximum": 2.5}, [1, 2]),
        ({"exclusiveMinimum": 0.5, "exclusiveMaximum": 2.5}, [1, 2]),
        ({"minimum": -2, "exclusiveMinimum": -2, "maximum": 0}, [-1, 0]),
        ({"minimum": -1, "exclusiveMinimum": -2, "maximum": 0}, [-1, 0]),
        ({"minimum": 7.0, "maximum": 7.0}, [7]),
        ({"minimum": 1, "maximum": 2, "multipleOf": 1}, [1, 2]),
        ({"minimum": 1, "maximum": 2, "format": "int64"}, [1, 2]),
    ],
)
def test_bounds_of_integers(keywords, members):
    language = Language({"type": "integer", **keywords})
    assert [n for n in SMALL if str(n) in language] == members


def test_the_integer_formats_of_openapi_are_bounds():
    language = Language({"type": "integer", "format": "int32"})
    for number, is_in in ((2**31 - 1, True), (2**31, False), (-(2**31), True), (-(2**31) - 1, False)):
        assert (str(number) in language) is is_in


def decimal_texts(value):
    """The ways to write a decimal that differ in the zeros at the end."""
    text = format(value, "f").lstrip("-") if value == 0 else format(value, "f")
    short = text.rstrip("0").rstrip(".") if "." in text else text
    return {text, short, text + "0" if "." in text else text + ".0"}


bounds = st.decimals(-2000, 2000, places=3) | st.integers(-20, 20).map(Decimal)


@given(bounds | st.none(), bounds | st.none(), st.booleans(), st.booleans(), st.lists(bounds, max_size=10))
@settings(max_examples=150, deadline=None)
def test_decimals_between_bounds(low, high, low_open, high_open, others):
    if low is not None and high is not None and low > high:
        low, high = high, low
    node = decimals(low, high, low_open=low_open, high_open=high_open)
    language = None if node is None else Language.of_node(node)
    steps = (Decimal(0), Decimal("0.1"), Decimal("0.00001"), Decimal(1), Decimal(10))
    near = [b + sign * step for b in (low, high) if b is not None for step in steps for sign in (1, -1)]
    for value in [*near, *others, Decimal(0)]:
        above = low is None or (low < value if low_open else low <= value)
        below = high is None or (value < high if high_open else value <= high)
        for text in decimal_texts(value):
            assert (language is not None and text in language) == (above and below), text


ANY_NUMBER = Language({"type": "number"})


@given(st.floats(-1e308, 1e308, exclude_min=True, exclude_max=True) | st.integers(-(10**18) + 1, 10**18 - 1))
def test_any_number_of_python_can_be_written(number):
    assert ANY_NUMBER.has(number)


@given(st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_no_number_rounds_to_an_exclusive_bound(bound, rng):
    bound = round(bound, 3)
    language = Language({"type": "number", "exclusiveMinimum": bound, "maximum": 2})
    close = [f"{Decimal(repr(bound)) + Decimal(10) ** -places:f}" for places in (1, 5, 15, 16, 20, 30)]
    for text in [*close, language.sample(rng)]:
        assert text not in language or bound < float(text) <= 2


def test_numbers_end():
    language = Language({"type": "number"})
    for text in ("0", "-0", "-0.0", "1.50", "123.456", "1e5", "1e+05", "1.5e-7", "9e307"):
        assert text in language, text
    for text in (
        "9e308",
        "1E5",
        ".5",
        "5.",
        "01",
        "1e",
        "-",
        "+1",
        "0." + "1" * 21,
        "1" * 19,
        "NaN",
        "Infinity",
    ):
        assert text not in language, text
    assert all(
        text in Language({"type": "number", "minimum": 0}) for text in ("0", "0.5", "1" * 18 + "." + "1" * 15)
    )


def test_numbers_of_whole_value_are_integers():
    language = Language({"type": "number", "multipleOf": 1, "maximum": 3})
    assert "3" in language and "2.5" not in language and "4" not in language


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "integer", "multipleOf": 5}, "#/multipleOf: multipleOf 5 is not enforced"),
        ({"type": "number", "multipleOf": 0.01}, "#/multipleOf: multipleOf 0.01 is not enforced"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "at least 3 and at most 2"),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "at least 2 and at most 1"),
        ({"type": "number", "minimum": 1, "exclusiveMaximum": 1}, "no value is valid"),
        ({"type": "number", "minimum": 2, "maximum": 1.5}, "no value is valid"),
        ({"type": "integer", "minimum": "1"}, "#/minimum: must be a number, got '1'"),
        (
            {"type": "integer", "exclusiveMinimum": True},
            "#/exclusiveMinimum: must be a number, got a boolean",
        ),
        ({"type": "number", "maximum": float("inf")}, "#/maximum: must be a number, got inf"),
        ({"type": "integer", "maximum": 10**200}, "at most 40 digits"),
        ({"type": "number", "minimum": 1e-200}, "at most 40 digits"),
        ({"type": "number", "exclusiveMinimum": 1234567.123456789123}, "at most 15 digits"),
        ({"type": "integer", "format": "date"}, "#/format: the format 'date' is not one of integers"),
        ({"type": "number", "format": "uuid"}, "#/format: the format 'uuid' is not one of numbers"),
    ],
)
def test_refusals(schema, told):
    with pytest.raises(InvalidConstraint) as error:
        schema_to_node(schema)
    assert told in str(error.value)
