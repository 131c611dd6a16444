"""The text of JSON strings: how it is escaped, as trees.

Invariant: a text has one spelling, that of ``json.dumps(text, ensure_ascii=False)``. Knows no schemas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ramet.errors import InvalidConstraint
from ramet.grammar.json_numbers import either
from ramet.grammar.nodes import (
    EMPTY,
    MAX_CODE_POINT,
    Alternate,
    Chars,
    Concat,
    Literal,
    Node,
    Repeat,
    any_of,
    chars,
    complement,
)

SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
"""What stands after the backslash. Other control characters are written like ``\\u001f``, the rest as is."""

ANY_CHAR = chars((0, MAX_CODE_POINT))
_ESCAPED = chars((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_HEX = "0123456789abcdef"


def intersection(one: Chars, other: Chars) -> Chars:
    """The characters in both."""
    found = [
        (max(low, first), min(high, last))
        for low, high in one.ranges
        for first, last in other.ranges
        if max(low, first) <= min(high, last)
    ]
    return chars(*found)


def escape(text: str) -> str:
    """The text as it stands between the quotes of a JSON string.

    Raises:
        InvalidConstraint: it holds half a surrogate pair, which no text can.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidConstraint(f"{text!r} holds half of a surrogate pair, which no text can") from error
    return json.dumps(text, ensure_ascii=False)[1:-1]


def escape_char(of: Chars) -> Node:
    """One of these characters as it stands between the quotes of a JSON string."""
    plain = intersection(of, complement(_ESCAPED))
    special = [chr(code) for low, high in intersection(of, _ESCAPED).ranges for code in range(low, high + 1)]
    options: list[Node] = [plain] if plain.ranges else []
    short = "".join(SHORT_ESCAPES[character] for character in special if character in SHORT_ESCAPES)
    after: list[Node] = [any_of(short)] if short else []
    for high_digit in (0, 1):
        codes = [ord(character) for character in special if character not in SHORT_ESCAPES]
        low_digits = "".join(_HEX[code & 15] for code in codes if code >> 4 == high_digit)
        if low_digits:
            after.append(Concat((Literal(f"u00{high_digit}"), any_of(low_digits))))
    if after:
        options.append(Concat((Literal("\\"), either(after))))
    return either(options) if options else Chars(())


def escape_node(node: Node) -> Node:
    """The language of the escaped texts of a language."""
    match node:
        case Literal(text):
            return Literal(escape(text))
        case Chars():
            return ESCAPED_CHAR if node == ANY_CHAR else escape_char(node)
        case Concat(parts):
            return Concat(tuple(map(escape_node, parts)))
        case Alternate(options):
            return Alternate(tuple(map(escape_node, options)))
        case Repeat(inner, low, high):
            return Repeat(escape_node(inner), low, high)


ESCAPED_CHAR = escape_char(ANY_CHAR)
"""Any character of a JSON string."""


def string(content: Node) -> Node:
    """A JSON string; ``content`` is escaped already."""
    return Concat((Literal('"'), content, Literal('"')))


ANY_STRING = string(Repeat(ESCAPED_CHAR, 0, None))


def string_other_than(texts: Sequence[str]) -> Node:
    """Any JSON string but these, of which there is one. Linear in the length of all texts together."""
    return string(_other_than(sorted(set(texts)), 0, Repeat(ESCAPED_CHAR, 0, None)))


def _other_than(texts: list[str], at: int, anything: Node) -> Node:
    """What may stand from ``at`` on instead of the rest of ``texts``, which are the same up to there.

    It calls itself once for each character of the longest.
    """
    branches: dict[str, list[str]] = {}
    for text in texts:
        branches.setdefault(text[at : at + 1], []).append(text)
    options: list[Node] = [] if branches.pop("", None) else [EMPTY]
    options.append(Concat((escape_char(complement(any_of("".join(branches)))), anything)))
    for first, group in branches.items():
        options.append(Concat((Literal(escape(first)), _other_than(group, at + 1, anything))))
    return either(options)
