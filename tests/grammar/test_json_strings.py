"""JSON strings: escapes, lengths, patterns, formats."""

import calendar
import ipaddress
import json
import random
import re
import uuid
from datetime import date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_language import Language

from ramet.errors import InvalidConstraint
from ramet.grammar.json_schema import schema_to_node

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n\x00\x1f\x7f/\u2028é🐈'))
ANY = Language({"type": "string"})


@given(TEXTS)
def test_a_string_holds_any_text_as_python_writes_it(text):
    assert ANY.has(text)


@pytest.mark.parametrize(
    "text", [r'"\/"', r'"\u0041"', r'"\u000a"', r'"\u001F"', r'"\x41"', '"\n"', '"', '"a', "'a'", r'"\"', "a"]
)
def test_there_is_one_way_to_write_a_text(text):
    assert text not in ANY


@given(TEXTS, st.integers(0, 4), st.integers(0, 4) | st.none())
@settings(max_examples=150, deadline=None)
def test_lengths_count_characters_not_bytes_or_escapes(text, least, more):
    most = None if more is None else least + more
    schema = {"type": "string", "minLength": least} | ({} if most is None else {"maxLength": most})
    assert Language(schema).has(text) == (least <= len(text) and (most is None or len(text) <= most))


# ------------------------------------------------------------------------------------------------- patterns

PATTERNS = [
    "b",
    "^b",
    "b$",
    "^b$",
    "^ab|b$",
    "^(ab|b)$",
    "(^a|b$)",
    "(?:^a$|^bb$)",
    "^$|^a+$",
    "",
    "^",
    "^[^a]$",
    "a.b",
    r"\.",
    r"^\$",
    r"^[$^]+$",
    r'^"$',
    r"^\\$",
    r'^["\\]{2}$',
    r"^a\/b$",
    "^[a-c]{2,3}$",
    "^(a|b)*c?$",
    "(?i)^AB$",
    "^(?P<x>a)b$",
    r"^[\]a]$",
    "^\n$",
    r"^[\x00-\x1f]$",
    "^a?$|c",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_searched_for(pattern):
    language = Language({"type": "string", "pattern": pattern})
    rng = random.Random(0)
    texts = ["".join(rng.choices('abcAB."$^\\/\n\x01]', k=rng.randint(0, 4))) for _ in range(400)]
    # Python's $ matches before a line feed at the end too; ours, like ECMAScript's, does not
    in_python = re.sub(r"(?<![\\\[])\$", r"\\Z", pattern)
    for text in ["", "a", "b", "ab", "bb", "cab", "abc", "aab", '"', "\\", *texts]:
        assert language.has(text) == bool(re.search(in_python, text)), text


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        (r"^\d$", "7", "٣"),
        (r"^\w$", "_", "é"),
        (r"^[\d\s]$", "\t", "\u00a0"),
        (r"^[^\d]$", "x", "٣"),
        ("^.$", "é", "\u2028"),
        ("^.$", "\\", "\r"),
        ("^[à-ü]$", "é", "z"),
    ],
)
def test_patterns_allow_what_every_dialect_allows(pattern, inside, outside):
    language = Language({"type": "string", "pattern": pattern})
    assert language.has(inside) and not language.has(outside)


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("^[A-Z]{3}$", 3, 3),
        ("^[A-Z]{3}$", 1, 10),
        ("^[a-z0-9_-]+$", 2, 4),
        ("^[a-z]*$", 3, None),
        ("^[a-z]([a-z-]*[a-z])?$", 1, 4),
        ("^(ab)*$", 3, 5),
        ("^(a|b[a-z]*)$", 0, 3),
        ("^a-[a-z]+$", 0, 4),
        ('^["\\\\]+$', 2, 3),
    ],
)
def test_a_pattern_with_lengths(pattern, least, most):
    language = Language({"type": "string", "pattern": pattern, "minLength": least, "maxLength": most or 99})
    rng = random.Random(3)
    texts = ["".join(rng.choices("abAB-", k=rng.randint(0, 6))) for _ in range(300)]
    texts += (
        ["A" * n for n in range(7)]
        + ["ab" * n for n in range(4)]
        + ["a" * n for n in range(7)]
        + ['"\\', '"']
    )
    for text in texts:
        expected = re.fullmatch(pattern.strip("^$"), text) and least <= len(text) <= (most or 99)
        assert language.has(text) == bool(expected), text


# -------------------------------------------------------------------------------------------------- formats


def test_dates_are_those_of_the_calendar():
    language = Language({"type": "string", "format": "date"})
    for year in (1, 4, 99, 100, 400, 1582, 1900, 1999, 2000, 2023, 2024, 2100, 9999):
        for month in range(14):
            for day in range(33):
                exists = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]
                assert language.has(f"{year:04}-{month:02}-{day:02}") == exists, (year, month, day)
    for year in range(1, 10000):
        assert language.has(f"{year:04}-02-29") == calendar.isleap(year), year
    assert not any(map(language.has, ["0000-01-01", "2024-1-1", "24-01-01", "2024-01-01T", "+2024-01-01"]))


FORMATS = {
    "time": (
        ["00:00:00Z", "23:59:59.123456+05:30"],
        ["24:00:00Z", "12:00:00", "12:60:00Z", "12:00:60Z", "12:00Z"],
    ),
    "date-time": (["2024-02-29T12:00:00Z"], ["2024-02-30T12:00:00Z", "2024-02-28 12:00:00Z", "2024-02-28"]),
    "duration": (
        ["P1D", "PT1H30M", "P1Y2M3DT4H5M6S", "P2W", "PT10S"],
        ["P", "PT", "P1H", "P1DT", "PT1H5S", "1D", "P1Y3D"],
    ),
    "uuid": (
        ["123e4567-e89b-12d3-a456-426614174000", "A" * 8 + "-aaaa-AAAA-0000-" + "f" * 12],
        ["123e4567", "g" * 36],
    ),
    "email": (
        ["a@b.de", "jane.doe+x_y-z@mail.my-site.co.uk"],
        ["a@b", "a.@b.de", "@b.de", "a@-b.de", "a b@c.de", "a@b..de"],
    ),
    "hostname": (["localhost", "a-b.example.com"], ["-a", "a-", "a..b", "", "a_b", "a--b"]),
    "ipv4": (
        ["0.0.0.0", "255.255.255.255", "192.168.1.10"],
        ["256.1.1.1", "1.1.1", "01.1.1.1", "1.1.1.1.1", "1.1.1.a"],
    ),
    "ipv6": (
        ["::", "::1", "1::", "fe80::1", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::"],
        [":", "1:2", ":::", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::"],
    ),
    "uri": (
        ["http://a.de", "https://a.de:8080/b/c?d=e&f=%20#g", "http://localhost/"],
        ["a.de", "ftp://a.de", "http://", "http:///a", "http://a.de/ b", "http://a.de:99999"],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_examples_of_formats(name):
    language = Language({"type": "string", "format": name})
    inside, outside = FORMATS[name]
    assert [text for text in inside if not language.has(text)] == []
    assert [text for text in outside if language.has(text)] == []


LANGUAGES = {
    name: Language({"type": "string", "format": name}) for name in ("date-time", "uuid", "ipv4", "ipv6")
}


@given(st.datetimes(), st.integers(-1439, 1439))
def test_datetimes_as_python_writes_them(moment, offset):
    hours, minutes = divmod(abs(offset), 60)
    assert LANGUAGES["date-time"].has(
        f"{moment.isoformat()}{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"
    )


READERS = {
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
    "uuid": uuid.UUID,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
}


@pytest.mark.parametrize("name", READERS)
def test_samples_of_formats_are_read_by_python(name):
    language, rng = Language({"type": "string", "format": name}), random.Random(5)
    for _ in range(200):
        READERS[name](json.loads(language.sample(rng)))


@given(st.ip_addresses(v=6) | st.ip_addresses(v=4) | st.uuids())
def test_addresses_as_python_writes_them(address):
    name = "uuid" if isinstance(address, uuid.UUID) else f"ipv{address.version}"
    assert LANGUAGES[name].has(str(address)) or (name == "ipv6" and "." in str(address))


def test_a_format_with_lengths():
    assert Language({"type": "string", "format": "email", "maxLength": 254}).has("a@b.de")
    language, rng = (
        Language({"type": "string", "format": "uri", "minLength": 1, "maxLength": 200}),
        random.Random(9),
    )
    assert max(len(json.loads(language.sample(rng, 300))) for _ in range(50)) <= 200
    assert Language({"type": "string", "format": "date", "minLength": 10, "maxLength": 10}).has("2024-01-01")


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"minLength": 3, "maxLength": 2}, "minLength 3 is more than maxLength 2"),
        ({"minLength": -1}, "#/minLength: must be an integer that is not negative, got -1"),
        ({"maxLength": 2.5}, "#/maxLength: must be an integer"),
        ({"maxLength": True}, "#/maxLength: must be an integer"),
        ({"pattern": 5}, "#/pattern: must be a string"),
        ({"pattern": "a(?=b)"}, "#/pattern: "),
        ({"pattern": "a^b"}, "'^' where it cannot be enforced"),
        ({"pattern": "(a$)b"}, "'$' where it cannot be enforced"),
        ({"pattern": r"\bword\b"}, "where it cannot be enforced"),
        ({"pattern": "[]"}, "empty character class"),
        ({"pattern": "(" * 60 + ")" * 60}, "nested deeper than 50"),
        ({"pattern": "(" * 30_000 + ")" * 30_000}, "nested deeper than 50"),
        ({"pattern": "a", "maxLength": 5}, "cannot be enforced together"),
        ({"pattern": "^[a-z]+-[a-z]+$", "maxLength": 5}, "cannot be enforced together"),
        ({"pattern": "^[a-z]{3}$", "maxLength": 2}, "no string matches the pattern and has the length"),
        ({"pattern": "^(aa)*$", "minLength": 3, "maxLength": 3}, "no string matches"),
        ({"pattern": "^a$", "format": "date"}, "pattern and format cannot be enforced together"),
        ({"format": "date", "maxLength": 9}, "no string matches the format"),
        ({"format": "email", "maxLength": 20}, "cannot be enforced together with this format"),
        (
            {"format": "credit-card"},
            "#/format: the format 'credit-card' is not enforced for strings (known: date,",
        ),
        ({"format": "int32"}, "it is one of numbers"),
    ],
)
def test_refusals(keywords, told):
    with pytest.raises(InvalidConstraint) as error:
        schema_to_node({"type": "string", **keywords})
    assert told in str(error.value)
