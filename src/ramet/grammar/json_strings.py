"""The JSON strings that ``pattern``, ``format``, ``minLength`` and ``maxLength`` ask for, as a tree.

Invariant: lengths count characters; an escape is one. Knows nothing of the schema around.
"""

from __future__ import annotations

from dataclasses import dataclass

from ramet.errors import InvalidConstraint
from ramet.grammar.json_formats import FORMATS, URI_HEAD_LENGTH, uri
from ramet.grammar.json_numbers import either
from ramet.grammar.json_patterns import pattern_node
from ramet.grammar.json_text import ESCAPED_CHAR, escape_node, string
from ramet.grammar.nodes import EMPTY, Alternate, Chars, Concat, Literal, Node, Repeat


class EmptyLanguage(InvalidConstraint):
    """No value at all meets the constraint."""


def string_node(
    least: int = 0, most: int | None = None, *, pattern: str | None = None, format_name: str | None = None
) -> Node:
    """A JSON string.

    Args:
        least: fewest characters.
        most: most characters.
        pattern: matches somewhere in the text.
        format_name: one of `FORMATS`.

    Raises:
        InvalidConstraint: the pattern is refused, or the conditions cannot be kept together.
        EmptyLanguage: no string meets them.
    """
    if most is not None and least > most:
        raise EmptyLanguage(f"minLength {least} is more than maxLength {most}: no string is so long")
    if pattern is None and format_name is None:
        return string(Repeat(ESCAPED_CHAR, least, most))
    if pattern is not None and format_name is not None:
        raise InvalidConstraint("pattern and format cannot be enforced together; keep one of them")
    if pattern is not None:
        content = pattern_node(pattern)
    elif format_name == "uri" and most is not None and most >= URI_HEAD_LENGTH:
        content = uri(most)
    else:
        content = FORMATS[format_name or ""]
    return string(
        escape_node(_of_length(content, least, most, "pattern" if pattern is not None else "format"))
    )


# ---------------------------------------------------------------------------------------------------- lengths


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Of the texts of a language; ``most`` is ``None`` if there is no longest one."""

    least: int
    most: int | None

    @property
    def are_equal(self) -> bool:
        return self.least == self.most


def _lengths(node: Node) -> _Lengths | None:
    """The lengths of the texts of a language; ``None`` if it has none."""
    match node:
        case Literal(text):
            return _Lengths(len(text), len(text))
        case Chars(ranges):
            return _Lengths(1, 1) if ranges else None
        case Concat(parts):
            of_parts = [found for found in map(_lengths, parts) if found is not None]
            if len(of_parts) < len(parts):
                return None
            longest = [found.most for found in of_parts if found.most is not None]
            return _Lengths(
                sum(found.least for found in of_parts), sum(longest) if len(longest) == len(parts) else None
            )
        case Alternate(options):
            all_found = [found for found in map(_lengths, options) if found is not None]
            if not all_found:
                return None
            ends = [found.most for found in all_found if found.most is not None]
            return _Lengths(
                min(found.least for found in all_found), max(ends) if len(ends) == len(all_found) else None
            )
        case Repeat(inner, low, high):
            found = _lengths(inner)
            if found is None:
                return _Lengths(0, 0) if low == 0 else None
            if found.most == 0 or high == 0:
                return _Lengths(0, 0)
            return _Lengths(
                found.least * low, None if high is None or found.most is None else found.most * high
            )


def _of_length(node: Node, least: int, most: int | None, keyword: str) -> Node:
    """The texts of a language that have a length from ``least`` to ``most``."""
    found = _limited(node, least, most)
    if found is None:
        raise EmptyLanguage(
            f"no string matches the {keyword} and has the length that minLength and maxLength ask for"
        )
    if found is _TOO_HARD:
        raise InvalidConstraint(
            f"minLength and maxLength cannot be enforced together with this {keyword}, of which more "
            "than one part varies in length; remove them, or put them into a pattern as in ^[a-z]{1,20}$"
        )
    return found


_TOO_HARD = Alternate(())
"""Stands for a language that is regular but not found by looking at one part of the tree."""


def _limited(node: Node, least: int, most: int | None) -> Node | None:
    """The texts of these lengths; ``None`` if there are none, `_TOO_HARD` if that takes an automaton."""
    lengths = _lengths(node)
    if lengths is None or lengths.least > (lengths.least if most is None else most):
        return None
    if lengths.most is not None and lengths.most < least:
        return None
    if lengths.least >= least and (most is None or (lengths.most is not None and lengths.most <= most)):
        return node
    match node:
        case Concat(parts):
            return _limited_concat(parts, least, most)
        case Alternate(options):
            found = [
                option
                for option in (_limited(option, least, most) for option in options)
                if option is not None
            ]
            if any(option is _TOO_HARD for option in found):
                return _TOO_HARD
            return either(found) if found else None
        case Repeat(inner, 0, 1):
            return _limited(Alternate((EMPTY, inner)), least, most)
        case Repeat(inner, fewest, high):
            unit = _lengths(inner)
            if unit is None or not unit.are_equal or unit.least == 0:
                return _TOO_HARD
            low = max(fewest, -(-least // unit.least))
            if most is not None:
                high = most // unit.least if high is None else min(high, most // unit.least)
            return Repeat(inner, low, high) if high is None or low <= high else None
    return None  # literals and characters have one length


def _limited_concat(parts: tuple[Node, ...], least: int, most: int | None) -> Node | None:
    all_lengths = [_lengths(part) for part in parts]
    varying = [index for index, found in enumerate(all_lengths) if found is not None and not found.are_equal]
    if len(varying) != 1:
        return _TOO_HARD
    [index] = varying
    fixed = sum(found.least for found in all_lengths if found is not None and found.are_equal)
    limited = _limited(parts[index], max(least - fixed, 0), None if most is None else most - fixed)
    if limited is None or limited is _TOO_HARD:
        return limited
    return Concat((*parts[:index], limited, *parts[index + 1 :]))
