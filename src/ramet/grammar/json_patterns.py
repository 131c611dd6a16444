"""The keyword ``pattern`` of JSON Schema, as a tree: of the texts in which the pattern is found.

It may match anywhere in the text, so the sides it does not anchor are open. Invariant: what is allowed here,
both ECMAScript and Python allow: ``.`` is no line end; ``\\d``, ``\\w`` and ``\\s`` are ASCII. Knows nothing
of JSON.
"""

from __future__ import annotations

from ramet.errors import InvalidConstraint
from ramet.grammar.json_keywords import shortened
from ramet.grammar.json_numbers import either
from ramet.grammar.json_text import ANY_CHAR
from ramet.grammar.nodes import Concat, Node, Repeat
from ramet.grammar.regex import parse_regex

_ANY_TEXT = Repeat(ANY_CHAR, 0, None)
_OUTSIDE_CLASS = {
    ".": "[^\\n\\r\\u2028\\u2029]",
    "\\d": "[0-9]",
    "\\w": "[A-Za-z0-9_]",
    "\\s": "[ \\t\\n\\r\\f\\v]",
}
_INSIDE_CLASS = {"\\d": "0-9", "\\w": "A-Za-z0-9_", "\\s": " \\t\\n\\r\\f\\v"}


def pattern_node(pattern: str) -> Node:
    """The texts in which the pattern is found.

    Raises:
        InvalidConstraint: the pattern is outside the dialect, or has an anchor elsewhere than at an end of it
            or of one of its alternatives.
    """
    options = []
    flags, tokens = _without_flags(_tokens(pattern))
    if any(depth > MAX_NESTING for _, depth in _depths(tokens)):
        raise InvalidConstraint(f"{shortened(pattern)!r} has groups nested deeper than {MAX_NESTING}")
    for branch in _branches(tokens):
        branch, at_start, at_end = _without_anchors(branch)
        wrong = next((token for token in branch if token in _ANCHORS), None)
        if wrong is not None:
            raise InvalidConstraint(
                f"{shortened(pattern)!r} has {wrong!r} where it cannot be enforced; ^ may begin and $ may "
                "end the pattern, or an alternative of it, or of a group that is the whole pattern"
            )
        found = parse_regex(flags + "".join(_for_both_dialects(token) for token in branch))
        before = () if at_start else (_ANY_TEXT,)
        after = () if at_end else (_ANY_TEXT,)
        options.append(Concat((*before, found, *after)) if before or after else found)
    return either(options)


MAX_NESTING = 50
"""Of the groups of a pattern."""
_ANCHORS = frozenset({"^", "$", "\\A", "\\Z", "\\z", "\\b", "\\B"})


def _tokens(pattern: str) -> list[str]:
    """The pattern cut into escapes, character classes and single characters."""
    tokens: list[str] = []
    at = 0
    while at < len(pattern):
        end = at + 1
        if pattern[at] == "\\":
            end = at + 2
        elif pattern[at] == "[":
            end += pattern.startswith("^", end)
            if pattern.startswith("]", end):
                raise InvalidConstraint(
                    f"{shortened(pattern)!r} has an empty character class; write \\] for the bracket itself"
                )
            while end < len(pattern) and pattern[end] != "]":
                end += 2 if pattern[end] == "\\" else 1
            end += 1
        tokens.append(pattern[at:end])
        at = end
    return tokens


def _without_flags(tokens: list[str]) -> tuple[str, list[str]]:
    """A group such as ``(?i)`` at the start, and the rest."""
    if tokens[:2] == ["(", "?"] and ")" in tokens:
        end = tokens.index(")") + 1
        flags = "".join(tokens[:end])
        if flags[2:-1].isalpha():
            return flags, tokens[end:]
    return "", tokens


def _branches(tokens: list[str]) -> list[list[str]]:
    """The alternatives; those of a group that is a whole alternative are alternatives themselves."""
    found: list[list[str]] = []
    waiting = [tokens]
    while waiting:
        tokens = waiting.pop()
        bars = [index for index, depth in _depths(tokens) if tokens[index] == "|" and depth == 0]
        if bars:
            starts, ends = [0, *(bar + 1 for bar in bars)], [*bars, len(tokens)]
            waiting.extend(tokens[start:end] for start, end in reversed(list(zip(starts, ends, strict=True))))
            continue
        closed = next(
            (index for index, depth in _depths(tokens) if tokens[index] == ")" and depth == 0), None
        )
        is_group = tokens[:1] == ["("] and closed == len(tokens) - 1
        if is_group and tokens[1:2] != ["?"]:
            waiting.append(tokens[1:-1])
        elif is_group and tokens[1:3] == ["?", ":"]:
            waiting.append(tokens[3:-1])
        else:
            found.append(tokens)
    return found


def _depths(tokens: list[str]) -> list[tuple[int, int]]:
    """For each token how many groups it lies in; parentheses count as outside of theirs."""
    found, depth = [], 0
    for index, token in enumerate(tokens):
        depth -= token == ")"
        found.append((index, depth))
        depth += token == "("
    return found


def _without_anchors(branch: list[str]) -> tuple[list[str], bool, bool]:
    """The alternative without ``^`` at its start and ``$`` at its end, and whether it had them."""
    at_start = branch[:1] == ["^"]
    at_end = branch[at_start:][-1:] == ["$"]
    return branch[at_start : len(branch) - at_end], at_start, at_end


def _for_both_dialects(token: str) -> str:
    if not token.startswith("["):
        return _OUTSIDE_CLASS.get(token, token)
    if token.startswith("[^"):  # there the wider reading is the safe one, and that is the regex parser's own
        return token
    inside, at = "", 1
    while at < len(token) - 1:
        end = at + 2 if token[at] == "\\" else at + 1
        inside += _INSIDE_CLASS.get(token[at:end], token[at:end])
        at = end
    return f"[{inside}]" if token.endswith("]") else token
