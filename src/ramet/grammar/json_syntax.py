"""How JSON is written: constants, arrays and objects, as trees.

Invariant: a value has one spelling, that of ``json.dumps(value, ensure_ascii=False)``, but for the whitespace
between its parts and for numbers that are not constants. Knows nothing of schemas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ramet.errors import InvalidConstraint
from ramet.grammar.json_keywords import MAX_BITS
from ramet.grammar.json_numbers import either, numbers
from ramet.grammar.json_text import ANY_STRING, escape
from ramet.grammar.nodes import EMPTY, Alternate, Chars, Concat, Literal, Node, Repeat, optional

MAX_FREE_DEPTH = 2
"""How deep arrays and objects may lie in each other where a schema allows any value."""

ANY_NUMBER = numbers()
SCALARS: Mapping[str, Node] = {
    "null": Literal("null"),
    "boolean": Alternate((Literal("true"), Literal("false"))),
    "number": ANY_NUMBER,
    "string": ANY_STRING,
}


@dataclass(frozen=True, slots=True)
class Member:
    """A named property of an object."""

    key: str
    value: Node
    required: bool


@dataclass(frozen=True, slots=True)
class Extra:
    """Further properties, after the named ones: ``least`` to ``most`` of them (``None``: any number)."""

    key: Node  # a JSON string
    value: Node
    least: int = 0
    most: int | None = None


class JsonSyntax:
    """Writes arrays and objects with the given whitespace between their parts.

    ``None`` is a space after ``:`` and ``,``, as ``json.dumps`` writes. The whitespace stands wherever JSON
    allows it inside a value, but not before or after a whole one.

    Raises:
        InvalidConstraint: the whitespace may be something that JSON does not allow there.
    """

    def __init__(self, whitespace: Node | None) -> None:
        if whitespace is None:
            self._between: Node = EMPTY
            self._comma: Node = Literal(", ")
            self._colon: Node = Literal(": ")
        else:
            _check_whitespace(whitespace)
            self._between = whitespace
            self._comma = Concat((whitespace, Literal(","), whitespace))
            self._colon = Concat((whitespace, Literal(":"), whitespace))

    def constant(self, value: object) -> Node:
        """Exactly this value, keys in their order. It is what a JSON parser gives, nested less than 300 deep.

        Raises:
            InvalidConstraint: it holds a number or a text that JSON cannot write.
        """
        match value:
            case str():
                return Literal(f'"{escape(value)}"')
            case list():
                return self.array([self.constant(item) for item in value], len(value))
            case dict():
                return self.object([Member(key, self.constant(item), True) for key, item in value.items()])
            case float() if not math.isfinite(value):
                raise InvalidConstraint(f"JSON cannot write the number {value}")
            case int() if value.bit_length() > MAX_BITS:
                raise InvalidConstraint("it holds an integer of too many digits")
        return Literal(json.dumps(value))

    def array(
        self, prefix: Sequence[Node], least: int, items: Node | None = None, most: int | None = None
    ) -> Node:
        """The first items of ``prefix``, then ``items`` if given: ``least`` to ``most`` in all.

        ``most`` is ``None`` for any number. ``least`` does not exceed what there can be.
        """
        given = list(prefix) if most is None else list(prefix)[:most]
        rest_most = 0 if items is None else None if most is None else most - len(given)
        rest = items if rest_most != 0 else None
        if not given:
            content = EMPTY if rest is None else self._list(rest, least, rest_most)
        else:
            parts = [given[0], *(Concat((self._comma, item)) for item in given[1:])]
            tail: Node = EMPTY
            if rest is not None:
                tail = Repeat(Concat((self._comma, rest)), max(least - len(given), 0), rest_most)
            fixed = min(least, len(given))
            optional_parts = parts[fixed:]
            ending = _prefixes(optional_parts, tail) if optional_parts else tail
            content = Concat((*parts[:fixed], ending))
        return Concat((Literal("["), self._between, *self._filled(content), Literal("]")))

    def object(self, members: Sequence[Member], extra: Extra | None = None, *, filled: bool = False) -> Node:
        """The members in their order, those that are not required perhaps missing, then further properties.

        ``filled``: it has at least one property.
        """
        pairs = [Concat((Literal(f'"{escape(m.key)}"'), self._colon, m.value)) for m in members]
        further: Node | None = None
        if extra is not None:
            further = Concat((extra.key, self._colon, extra.value))
        first = next((index for index, member in enumerate(members) if member.required), None)
        if first is not None:
            # A property before the first required one brings the comma after it, another the one before.
            before = [optional(Concat((pair, self._comma))) for pair in pairs[:first]]
            after = [self._follow(pair, member.required) for pair, member in zip(pairs, members, strict=True)]
            content: Node = Concat(
                (*before, pairs[first], *after[first + 1 :], *self._further(extra, further))
            )
        else:
            options: list[Node] = []
            if pairs:
                options.append(Concat((self._some(pairs), *self._further(extra, further))))
            if extra is not None and further is not None and extra.most != 0:
                options.append(self._list(further, max(extra.least, 1), extra.most))
            if not filled and (extra is None or extra.least == 0):
                options.append(EMPTY)
            content = either(options)
        return Concat((Literal("{"), self._between, *self._filled(content), Literal("}")))

    def anything(self, depth: int) -> Node:
        """Any value of arrays and objects in each other at most ``depth`` deep."""
        return self._anything[depth] if depth < len(self._anything) else self._anything[-1]

    @cached_property
    def _anything(self) -> list[Node]:
        values: list[Node] = [Alternate(tuple(SCALARS.values()))]
        for _ in range(MAX_FREE_DEPTH):
            inner = values[-1]
            extra = Extra(ANY_STRING, inner)
            values.append(Alternate((*SCALARS.values(), self.array((), 0, inner), self.object((), extra))))
        return values

    def _filled(self, content: Node) -> tuple[Node, ...]:
        return (content, self._between) if self._between is not EMPTY else (content,)

    def _list(self, item: Node, least: int, most: int | None) -> Node:
        """``least`` to ``most`` items with commas between."""
        if most == 0:
            return EMPTY
        rest = Repeat(Concat((self._comma, item)), max(least - 1, 0), None if most is None else most - 1)
        some = item if most == 1 else Concat((item, rest))
        return some if least else optional(some)

    def _follow(self, pair: Node, required: bool) -> Node:
        after = Concat((self._comma, pair))
        return after if required else optional(after)

    def _further(self, extra: Extra | None, further: Node | None) -> tuple[Node, ...]:
        if extra is None or further is None:
            return ()
        return (Repeat(Concat((self._comma, further)), extra.least, extra.most),)

    def _some(self, pairs: Sequence[Node]) -> Node:
        """At least one of these, in their order. By halves, as that makes it of size n log n and not n²."""
        if len(pairs) == 1:
            return pairs[0]
        half = len(pairs) // 2
        right = pairs[half:]
        return Alternate(
            (
                Concat((self._some(pairs[:half]), *(self._follow(pair, False) for pair in right))),
                self._some(right),
            )
        )


def _prefixes(parts: Sequence[Node], tail: Node) -> Node:
    """The first few of the parts, or all of them and then ``tail``. By halves, so that it is not deep."""
    if len(parts) == 1:
        return optional(parts[0] if tail is EMPTY else Concat((parts[0], tail)))
    half = len(parts) // 2
    return Alternate((_prefixes(parts[:half], EMPTY), Concat((*parts[:half], _prefixes(parts[half:], tail)))))


def _check_whitespace(node: Node) -> None:
    allowed = set(" \t\n\r")
    waiting = [node]
    while waiting:
        match waiting.pop():
            case Literal(text):
                found = set(text)
            case Chars(ranges):
                found = {
                    chr(code) for low, high in ranges for code in (*range(low, min(high, low + 4)), high)
                }
            case Concat(parts):
                waiting.extend(parts)
                continue
            case Alternate(options):
                waiting.extend(options)
                continue
            case Repeat(inner, _, _):
                waiting.append(inner)
                continue
        if found - allowed:
            wrong = min(found - allowed)
            raise InvalidConstraint(
                f"whitespace must match spaces, tabs, newlines and carriage returns only, not {wrong!r}"
            )
