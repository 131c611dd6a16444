"""Every text of a type's schema is a value of the type: random texts of the automaton, read back."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import random
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import msgspec
import pydantic
import pytest

from ramet.errors import InvalidConstraint
from ramet.grammar.automaton import build_dfa
from ramet.grammar.json_schema import schema_to_node
from ramet.typed import of_json_schema

Meta = msgspec.Meta
Naive = Annotated[dt.datetime, Meta(tz=False)]


class Color(enum.Enum):
    red = "red"
    blue = "blue"


class Number(enum.IntEnum):
    one = 1


@dataclasses.dataclass
class Moments:
    """Has every type that msgspec says too little about, at every place a type can stand."""

    plain: dt.datetime
    naive: Naive
    times: list[dt.time]
    pair: tuple[Annotated[dt.time, Meta(tz=False)], dt.timedelta]
    named: dict[str, Naive]
    perhaps: Annotated[dt.timedelta | None, Meta(description="how long")] = None


class Event(msgspec.Struct, tag="event"):
    at: Naive


class Gap(msgspec.Struct, tag="gap"):
    length: dt.timedelta


class Row(msgspec.Struct, array_like=True, tag=True):
    at: Naive
    price: decimal.Decimal = decimal.Decimal(0)


class Stop(NamedTuple):
    at: Naive
    tags: set[int]


class Trip(TypedDict):
    stops: list[Stop]


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=9)
    born: pydantic.NaiveDatetime
    seen: pydantic.AwareDatetime | None = None


class Account(pydantic.BaseModel):
    balance: decimal.Decimal
    price: decimal.Decimal = pydantic.Field(max_digits=5, decimal_places=2)
    share: decimal.Decimal = pydantic.Field(max_digits=2, decimal_places=2)
    count: decimal.Decimal = pydantic.Field(decimal_places=0)
    rate: decimal.Decimal = pydantic.Field(gt=0, le=1)


class Sets(pydantic.BaseModel):
    some: set[int]
    frozen: frozenset[Color]
    at_least: set[int] = pydantic.Field(min_length=1)


class Dicts(pydantic.BaseModel):
    plain: dict[str, int]
    literal: dict[Literal["a", "b"], int]
    colors: dict[Color, int]
    dates: dict[dt.date, int]
    words: collections.Counter[str]
    untyped: dict


@pydantic.dataclasses.dataclass
class Checked:
    word: Annotated[str, pydantic.Field(min_length=3)]


class Child(pydantic.BaseModel):
    callback: Callable[[int], int]


def random_text(dfa, rng, wish_to_end=0.3):
    """Bytes drawn one by one, as a text; ``None`` if that takes too long."""
    by_class = collections.defaultdict(list)
    for byte, kind in enumerate(dfa.byte_classes):
        by_class[int(kind)].append(byte)
    state, text = 0, bytearray()
    while len(text) < 4000:
        going_on = [int(kind) for kind in (dfa.transitions[state] >= 0).nonzero()[0] if by_class[int(kind)]]
        if dfa.accepting[state] and (not going_on or rng.random() < wish_to_end):
            return text.decode()
        closing = [kind for kind in going_on if set(by_class[kind]) & set(b'"]},:')]
        kind = rng.choice(closing if closing and rng.random() < wish_to_end else going_on)
        text.append(rng.choice(by_class[kind]))
        state = int(dfa.transitions[state, kind])
    return None


TYPES = [
    dt.datetime,
    dt.time,
    dt.date,
    dt.timedelta,
    decimal.Decimal,
    Naive,
    Annotated[dt.datetime, Meta(tz=True)],
    Annotated[dt.time, Meta(tz=False)],
    Annotated[dt.time, Meta(tz=True)],
    int | Naive | None,
    uuid.UUID,
    set[int],
    frozenset[str],
    Annotated[set[int], Meta(max_length=2)],
    dict,
    dict[str, float],
    dict[NewType("Name", str), int],
    Moments,
    Event | Gap,
    Event | Naive | None,
    Row | dt.timedelta | None,
    Event | Gap | Naive | None,
    Trip,
    Color | Number,
    Person,
    Account,
    Sets,
    Dicts,
    Checked,
    list[Person],
    dict[str, Person | None],
    Annotated[Person | Account, "either"],
]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: re.sub(r"[^\w\[\], |]", "", str(kind))[:60])
def test_every_text_of_a_types_schema_is_read_as_a_value_of_it(kind):
    output = of_json_schema(kind)
    dfa = build_dfa(schema_to_node(json.loads(output.constraint.schema), None))
    rng = random.Random(3)
    texts = [text for _ in range(40) if (text := random_text(dfa, rng)) is not None]
    assert len(texts) >= 20
    for text in texts:
        output.parse(text)


def accepts(kind: Any, text: str) -> bool:
    dfa = build_dfa(schema_to_node(json.loads(of_json_schema(kind).constraint.schema), None))
    state = 0
    for byte in text.encode():
        state = int(dfa.transitions[state, dfa.byte_classes[byte]]) if state >= 0 else -1
    return state >= 0 and bool(dfa.accepting[state])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Naive, dt.datetime(2024, 2, 29, 23, 59, 59, 250000)),
        (Naive, dt.datetime(2000, 2, 29)),
        (Naive, dt.datetime(9999, 12, 31, 1, 2, 3)),
        (dt.datetime, dt.datetime(2024, 1, 31, tzinfo=dt.UTC)),
        (dt.timedelta, dt.timedelta(days=3, seconds=86399, microseconds=5)),
        (dt.timedelta, dt.timedelta(hours=2)),
        (decimal.Decimal, decimal.Decimal("12.50")),
        (set[int], {1, 2}),
    ],
)
def test_values_can_be_written(kind, value):
    text = json.dumps(json.loads(msgspec.json.Encoder(decimal_format="number").encode(value)))
    if isinstance(value, decimal.Decimal):
        text = str(value)
    assert accepts(kind, text)
    assert of_json_schema(kind).parse(text) == value


def test_days_that_do_not_exist_cannot_be_written():
    for day in ("2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01", "2024-13-01"):
        assert not accepts(Naive, f'"{day}T00:00:00"')


def test_decimals_of_pydantic_are_exact():
    output = of_json_schema(Account)
    text = '{"balance": "123456789012345678.12345678901234567891", "price": "999.99", "share": "0.25", '
    text += '"count": "7", "rate": 0.5}'
    assert accepts(Account, text)
    assert output.parse(text).balance == decimal.Decimal("123456789012345678.12345678901234567891")
    assert not accepts(Account, text.replace("999.99", "1000.5"))


def test_a_list_of_models_is_read_as_models():
    value = of_json_schema(list[Person]).parse('[{"name": "Ada", "born": "1815-12-10T00:00:00"}]')
    assert value == [Person(name="Ada", born=dt.datetime(1815, 12, 10))]


def field(kind: Any, **constraints: Any) -> Any:
    return pydantic.create_model("Made", it=(kind, pydantic.Field(**constraints)))


@dataclasses.dataclass
class Team:
    members: list[Person]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (dict[int, str], r"keys of type int .*dict\[str, \.\.\.\]"),
        (list[dict[dt.date, int]], "keys of type date"),
        (dict[Literal["a"], int], "keys of type literal"),
        (Annotated[set[int], Meta(min_length=2)], "the size of a set"),
        (field(dict[int, str]), "keys of type int"),
        (field(collections.Counter[int]), "keys of type int"),
        (field(set[int], min_length=2), "the size of a set"),
        (field(decimal.Decimal, max_digits=4), "a Decimal can have bounds, or decimal_places"),
        (field(decimal.Decimal, ge=0, decimal_places=2), "a Decimal can have bounds, or decimal_places"),
        (field(pydantic.PastDatetime), "the bounds of a datetime"),
        (field(dt.date, gt=dt.date(2020, 1, 1)), "the bounds of a date"),
        (field(dt.timedelta, ge=dt.timedelta(1)), "the bounds of a timedelta"),
        (field(Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=2)]), "stripped"),
        (Child, "must be a schema .*callback|CallableSchema"),
        (Team, "must be a schema .*RootModel"),
        (list[Child], "must be a schema"),
        (Person(name="Ada", born=dt.datetime(1815, 12, 10)), "must be a schema"),
        (Annotated[complex, Meta(extra_json_schema={"type": "string"})], "must be a schema .*complex"),
        ([1], "must be a schema"),
    ],
)
def test_types_that_texts_need_not_be_values_of_are_refused_with_what_to_write(kind, message):
    with pytest.raises(InvalidConstraint, match=message):
        of_json_schema(kind)


def test_pydantic_is_imported_only_by_who_uses_it():
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "from ramet.typed import of_json_schema\n"
        "assert of_json_schema(list[int]).parse('[1]') == [1]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
