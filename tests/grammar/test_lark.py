"""Grammars in Lark's notation: what is refused before a parser sees them, and what is not."""

from __future__ import annotations

import json

import pytest

from ramet.errors import InvalidConstraint
from ramet.grammar.lark import MAX_LENGTH, checked_grammar


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a" start?',
        'start: "a" start{0,2}',
        'start: "a" [start]',
        'start: "a" start* | "(" start+ ")"',
        'start: x\n?x: x "+" y -> sum\n  | y\n!y: /[0-9]+/',
        'start: "<|im_start|>" /<[1]>/  // not <|special|> at all',
        'start: "(" "[" /[(\\/]/  // ((((',
        'start: x ","\nx[stop="q"]: /a+/',
        'start: "temperature=" /max_tokens=3/',
        "%ignore / /\n%import common.INT\nstart: INT",
        "start: pick::0\npick::_: pick::1 %if true\n",
    ],
)
def test_a_grammar_is_left_as_it_is_but_for_its_comments(grammar):
    kept = "\n".join(line.split("  //")[0].rstrip() for line in grammar.split("\n"))
    checked = checked_grammar(grammar, {})
    assert "\n".join(line.rstrip() for line in checked.split("\n")) == kept


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('start: "a" <|im_end|>', "special token"),
        ('start: "a" <[5]>', "special token"),
        ('start: x\nx[temperature=0.5]: "a"', "temperature"),
        ("start: x\nx[lazy, max_tokens = 3]: /a+/", "max_tokens"),
        ('start: x "c"\nx[stop=""]: /a+/', "end-of-sequence"),
        ('%llguidance {"whatever": 1}\nstart: "a"', "whatever"),
        ('{"grammars": []}', "Lark"),
        ('start: %json {"type": "integer", "foo": 3}', "foo"),
        ('start: %json {"type": "integer", ', "line 1"),
        ('start: "' + "a" * MAX_LENGTH + '"', "characters"),
        ("\n".join(f"r{i}: r{i + 1}" for i in range(3000)), "3000 rules"),
        ("\n".join(f'r{i}: {"(" * 8}"a"{")" * 8}' for i in range(200)), "parentheses"),
    ],
)
def test_what_would_not_be_enforced_is_refused(grammar, message):
    with pytest.raises(InvalidConstraint, match=message):
        checked_grammar(grammar, {})


@pytest.mark.parametrize(
    ("grammar", "rule"),
    [
        ('start: "a" start', "start"),
        ('start: "a" start | "b" start', "start"),
        ('start: "a"\nloop: "b" loop', "loop"),
        ('start: "a" x | y\nx: y "b"\ny: x | "(" y+ ")"', "start"),
        ("start: x\nx: (x | start) [x]", "start"),
        ("start: A\nA: /a/ A", "start"),
    ],
)
def test_a_rule_that_never_ends_is_refused(grammar, rule):
    with pytest.raises(InvalidConstraint, match=f"rule {rule} .* never ends"):
        checked_grammar(grammar, {})


def test_embedded_schemas_are_written_anew_with_their_options():
    checked = checked_grammar('start: %json {"type": "null", "title": "}"} "x"', {"lenient": False})
    schema = json.loads(checked[len("start: %json ") : -len(' "x"')])
    assert schema == {
        "$ref": "#/$defs/0",
        "$defs": {"0": {"type": ["null"]}},
        "x-guidance": {"lenient": False},
    }
