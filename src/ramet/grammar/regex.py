"""Regular expressions: patterns in the syntax of Python's ``re``, parsed into syntax trees.

The dialect is documented in docs/concepts/constraints.md. Invariant: a text is in the language of the tree if
and only if ``re.fullmatch`` accepts it; what cannot keep that is refused, with its place. Knows nothing of
automata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ramet.grammar.nodes import (
    EMPTY,
    MAX_CODE_POINT,
    Alternate,
    Concat,
    Literal,
    Node,
    Repeat,
    any_of,
    chars,
    complement,
)
from ramet.grammar.regex_characters import CharacterReader, Flags, Source

MAX_PATTERN_LENGTH = 65_536
MAX_NESTING = 200
MAX_REPEAT = 10_000
MAX_DIGITS = 9

SIGNS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
DIGITS = "0123456789"

FLAGS = re.compile(r"([aiLmsux]*)(?:-([aiLmsux]+)(?=:))?(:|(?<!\?)\))")
ANYTHING = chars((0, MAX_CODE_POINT))
NOT_NEWLINE = complement(any_of("\n"))

REFUSED_GROUPS = {
    "?=": "a lookahead",
    "?!": "a negative lookahead",
    "?<=": "a lookbehind",
    "?<!": "a negative lookbehind",
    "?>": "an atomic group",
    "?(": "a conditional",
    "?#": "a comment",
    "?P=": "a backreference",
}


def parse_regex(pattern: str) -> Node:
    """The syntax tree of a pattern.

    Raises:
        InvalidConstraint: not a pattern, or one beyond the dialect or its limits; with what and where.
    """
    return _Parser(pattern).parse()


@dataclass(slots=True)
class _Group:
    """A group that is being read; the outermost is the pattern itself."""

    start: int
    flags: Flags
    options: list[Node] = field(default_factory=list)  # those that are complete
    parts: list[Node] = field(default_factory=list)  # of the current one
    anchor: int = -1  # where the current one had its `$`
    has_repeat: bool = False  # the last part is a repeat already

    def add(self, node: Node) -> None:
        self.parts.append(node)
        self.has_repeat = False

    def end_option(self) -> None:
        self.options.append(_joined(self.parts))
        self.parts, self.anchor, self.has_repeat = [], -1, False

    def node(self) -> Node:
        self.end_option()
        return self.options[0] if len(self.options) == 1 else Alternate(tuple(self.options))


def _joined(parts: list[Node]) -> Node:
    """The parts in order, neighbouring texts as one."""
    joined: list[Node] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, Literal):
            texts.append(part.text)
            continue
        if texts:
            joined.append(Literal("".join(texts)))
            texts = []
        joined.append(part)
    if texts:
        joined.append(Literal("".join(texts)))
    return EMPTY if not joined else joined[0] if len(joined) == 1 else Concat(tuple(joined))


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._source = source = Source(pattern)
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise source.error(f"more than {MAX_PATTERN_LENGTH:,} characters", MAX_PATTERN_LENGTH)
        self._characters = CharacterReader(source)
        self._group = _Group(0, Flags())
        self._outer: list[_Group] = []
        self._names: set[str] = set()
        self._end_of_flags = 0  # those of the whole pattern

    def parse(self) -> Node:
        source = self._source
        while not source.at_end:
            position = source.position
            is_end = source.starts_with(("$", r"\Z"))
            if self._group.anchor >= 0 and not is_end and not source.starts_with(("|", ")")):
                raise source.error("an anchor that is not at an end of the pattern", self._group.anchor)
            if is_end or source.starts_with(("^", r"\A")):
                self._anchor(position, is_end)
                continue
            character = source.take()
            if character == "|":
                self._group.end_option()
            elif character == "(":
                self._open(position)
            elif character == ")":
                self._close(position)
            elif character in SIGNS:
                self._repeat(position, *SIGNS[character])
            elif character == "{":
                self._braces(position)
            else:
                self._atom(position, character)
        if self._outer:
            raise source.error("a group that is not closed", self._group.start)
        return self._group.node()

    def _atom(self, position: int, character: str) -> None:
        flags = self._group.flags
        node: Node
        if character == "[":
            node = self._characters.character_class(position, flags)
        elif character == ".":
            node = ANYTHING if flags.dot_all else NOT_NEWLINE
        elif character == "\\":
            node = self._characters.escape(position, flags)
        else:
            node = self._characters.literal(character, position, flags)
        self._group.add(node)

    def _anchor(self, position: int, is_end: bool) -> None:
        source, group = self._source, self._group
        if self._outer or (group.parts and not is_end):
            raise source.error("an anchor that is not at an end of the pattern", position)
        if is_end:
            group.anchor = position
        source.position += 2 if source.starts_with("\\") else 1

    # ------------------------------------------------------------------------------------------- groups

    def _open(self, position: int) -> None:
        source, flags = self._source, self._group.flags
        if source.starts_with("?"):
            for mark, name in REFUSED_GROUPS.items():
                if source.starts_with(mark):
                    raise source.error(f"{name} is not supported", position)
            source.take()
            if source.starts_with("P<"):
                self._read_name(position)
            else:
                changed = self._read_flags(position)
                if changed is None:
                    return  # they were flags for the whole pattern
                flags = changed
        if len(self._outer) >= MAX_NESTING:
            raise source.error(f"groups nested deeper than {MAX_NESTING}", position)
        self._outer.append(self._group)
        self._group = _Group(position, flags)

    def _close(self, position: int) -> None:
        if not self._outer:
            raise self._source.error("a ) without a group", position)
        node = self._group.node()
        self._group = self._outer.pop()
        self._group.add(node)

    def _read_name(self, position: int) -> None:
        source = self._source
        end = source.pattern.find(">", source.position)
        name = source.pattern[source.position + len("P<") : max(end, 0)]
        if not name.isidentifier():
            raise source.error("a group with a name that is not an identifier", position)
        if name in self._names:
            raise source.error(f"a second group named {name}", position)
        self._names.add(name)
        source.position = end + 1

    def _read_flags(self, position: int) -> Flags | None:
        """The flags of ``(?flags-flags:``; those of ``(?flags)`` are set, and None returned."""
        source = self._source
        found = FLAGS.match(source.pattern, source.position)
        if found is None:
            raise source.error("a group of an unknown kind", position)
        on, off, last = found[1], found[2] or "", found[3]
        for letter in on + off:
            if letter not in "isu" or (letter in off and letter in on + "u"):
                raise source.error(f"the flag {letter} is not supported here", position)
        source.position = found.end()
        flags = self._group.flags
        flags = Flags(
            ignore_case="i" in on or (flags.ignore_case and "i" not in off),
            dot_all="s" in on or (flags.dot_all and "s" not in off),
        )
        if last == ":":
            return flags
        if position != self._end_of_flags:
            raise source.error("flags for the whole pattern that are not at its start", position)
        self._end_of_flags = source.position
        self._group.flags = flags
        return None

    # ------------------------------------------------------------------------------ repeats and anchors

    def _braces(self, position: int) -> None:
        source = self._source
        low = source.take_while(DIGITS)
        high = low
        if source.starts_with(","):
            source.take()
            high = source.take_while(DIGITS)
        if not source.starts_with("}") or source.pattern[position + 1] == "}":
            source.position = position + 1  # as in `re`: no repeat, so a brace
            self._atom(position, "{")
            return
        source.take()
        for digits in (low, high):
            if len(digits) > MAX_DIGITS or int(digits or 0) > MAX_REPEAT:
                raise source.error(f"a repeat count of more than {MAX_REPEAT:,}", position)
        self._repeat(position, int(low or 0), int(high) if high else None)

    def _repeat(self, position: int, low: int, high: int | None) -> None:
        source, group = self._source, self._group
        if not group.parts:
            raise source.error("a repeat of nothing", position)
        if group.has_repeat:
            raise source.error("a repeat of a repeat; put the inner one in a group", position)
        if high is not None and high < low:
            raise source.error("a repeat whose smallest count is larger than its largest", position)
        if source.starts_with("+"):
            raise source.error("a possessive repeat is not supported", position)
        if source.starts_with("?"):
            source.take()  # lazy: that says which match is preferred, not what matches
        group.parts[-1] = Repeat(group.parts[-1], low, high)
        group.has_repeat = True
