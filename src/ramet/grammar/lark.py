"""A grammar in Lark's notation, looked over before a parser of context-free grammars is given it.

What would make the output something else than a text of the grammar is refused here: special tokens,
attributes that concern sampling, options nobody enforces, and rules that never end. Invariant: the checked
grammar means the same as the given one, its JSON schemas checked and written anew. Knows nothing of the
parser.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ramet.errors import InvalidConstraint
from ramet.grammar.recursive_schema import standalone_schema

MAX_LENGTH = 1 << 16
MAX_NESTING = 1000
"""Rules, and parentheses in each other, added up: how deep a parser gets that follows every name at once."""

_TOKEN = re.compile(
    r"""
    (?P<comment> //[^\n]* | \#[^\n]* )
  | (?P<string> "(?:[^"\\\n]|\\.)*"i? )
  | (?P<regex> /(?:[^/\\\n]|\\.)+/[a-z]* )
  | (?P<special> <[^<>\s]*> )
  | (?P<block> %(?:json|llguidance|regex)\s*(?=\{) )
    """,
    re.VERBOSE,
)
_HEAD = re.compile(r"^[ \t]*[?!]?([A-Za-z_]\w*)[ \t]*(\[[^\]\n]*\])?[ \t]*:", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*%.*$", re.MULTILINE)
_SAMPLING = re.compile(r"\b(temperature|max_tokens)\s*=")
_EMPTY_STOP = re.compile(r'\b(?:stop|suffix)\s*=\s*""')
_OPTIONS = frozenset({"no_forcing", "allow_initial_skip"})
_WORD = re.compile(r"[A-Za-z_]\w*|[()\[\]|?*+]|\{[^{}]*\}|[~&]|->|\S")


def checked_grammar(grammar: str, json_options: dict[str, Any]) -> str:
    """The grammar as the parser is to read it.

    Args:
        json_options: how JSON is to be written where the grammar says ``%json``.

    Raises:
        InvalidConstraint: it is too long or too deep, or holds what cannot be enforced.
    """
    if len(grammar) > MAX_LENGTH:
        raise InvalidConstraint(f"the grammar has {len(grammar):,} characters, more than {MAX_LENGTH:,}")
    if grammar.lstrip().startswith("{"):
        raise InvalidConstraint("the grammar is JSON; it must be in Lark's notation")
    scan = _scan(grammar, json_options)
    bodies = _bodies(scan.outline)
    if sum(1 + _depth(body) for body in bodies.values()) > MAX_NESTING:
        raise InvalidConstraint(
            f"the grammar has {len(bodies)} rules and terminals, too many for the depth of their "
            f"parentheses: these may add up to {MAX_NESTING}, with one for each rule"
        )
    if "::" not in scan.outline:  # rules with parameters: which of them a name means depends on values
        _check_endings(bodies)
    return scan.text


@dataclass(frozen=True, slots=True)
class _Scan:
    text: str  # with its JSON schemas written anew
    outline: str  # the same without comments, and strings and the like made blank


def _scan(grammar: str, json_options: dict[str, Any]) -> _Scan:
    text: list[str] = []
    outline: list[str] = []
    position = 0
    while (match := _TOKEN.search(grammar, position)) is not None:
        between = grammar[position : match.start()]
        text.append(between)
        outline.append(between)
        position = match.end()
        match match.lastgroup:
            case "comment":
                continue
            case "special":
                raise InvalidConstraint(f"the grammar holds the special token {match[0]}, which is no text")
            case "block":
                value, position = _json_value(grammar, position)
                text.append(_block(match[0].strip(), value, json_options))
                outline.append('""' if not match[0].startswith("%llguidance") else "")
            case _:
                before = grammar[max(0, match.start() - 20) : match.end()]
                if (found := _EMPTY_STOP.search(before)) is not None:
                    raise InvalidConstraint(f"{found[0]} asks for an end-of-sequence token, which is no text")
                text.append(match[0])
                outline.append('""')
    text.append(grammar[position:])
    outline.append(grammar[position:])
    whole = "".join(outline)
    if (found := _SAMPLING.search(whole)) is not None:
        raise InvalidConstraint(
            f"the attribute {found[1]} concerns sampling and is not supported in a grammar"
        )
    return _Scan("".join(text), whole)


def _json_value(grammar: str, position: int) -> tuple[dict[str, Any], int]:
    try:
        value, end = json.JSONDecoder().raw_decode(grammar, position)
    except (ValueError, RecursionError) as error:
        line = grammar.count("\n", 0, position) + 1
        raise InvalidConstraint(
            f"line {line} of the grammar holds no JSON after the directive: {error}"
        ) from error
    return value, end


def _block(directive: str, value: dict[str, Any], json_options: dict[str, Any]) -> str:
    match directive:
        case "%json":
            return f"%json {json.dumps(standalone_schema(value) | {'x-guidance': json_options})}"
        case "%llguidance":
            unknown = sorted(value.keys() - _OPTIONS)
            if unknown:
                raise InvalidConstraint(f"the option {unknown[0]} of %llguidance is not supported")
    return f"{directive} {json.dumps(value)}"


# -------------------------------------------------------------------------------------------- rules that end


def _bodies(outline: str) -> dict[str, list[str]]:
    """The words that each rule and terminal is made of."""
    heads = list(_HEAD.finditer(outline))
    bodies: dict[str, list[str]] = {}
    for head, following in pairwise([*heads, None]):
        assert head is not None
        body = outline[head.end() : following.start() if following is not None else len(outline)]
        bodies.setdefault(head[1], []).extend(_WORD.findall(_DIRECTIVE.sub("", body)))
    return bodies


def _depth(body: list[str]) -> int:
    depth = deepest = 0
    for word in body:
        depth += (word in ("(", "[")) - (word in (")", "]"))
        deepest = max(deepest, depth)
    return deepest


def _check_endings(bodies: dict[str, list[str]]) -> None:
    """Refuse rules of which no text ever ends: the ones outside of the least fixed point."""
    endless = set(bodies)
    while True:
        found = {name for name in endless if _Endings(bodies[name], endless).all_ends()}
        if not found:
            break
        endless -= found
    for name in bodies:
        if name in endless:
            raise InvalidConstraint(
                f"the rule {name} of the grammar never ends: each of its alternatives needs it again"
            )


class _Endings:
    """Reads the body of a rule: whether some text of it is made without the names in ``endless``."""

    def __init__(self, words: list[str], endless: set[str]) -> None:
        self._words = words
        self._endless = endless
        self._at = 0

    def all_ends(self) -> bool:
        ends = self._alternatives()
        return ends or self._at < len(self._words)  # what cannot be read is left to the parser

    def _alternatives(self) -> bool:
        ends = self._sequence()
        while self._next() == "|":
            self._at += 1
            ends = self._sequence() or ends
        return ends

    def _sequence(self) -> bool:
        ends = True
        while (word := self._next()) not in ("", "|", ")", "]"):
            self._at += 1
            item = word not in self._endless
            if word == "->":
                self._at += 1  # a name for the alternative
            elif word in ("(", "["):
                item = self._alternatives() or word == "["
                self._at += 1
            if self._next() in ("?", "*") or re.match(r"\{\s*[0,]", self._next()):
                item = True
            ends = ends and item
        return ends

    def _next(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""
