"""What stands for single characters in a pattern: literals, escapes, classes.

Invariant: a reader leaves the source behind what it has read. Knows nothing of groups and repeats.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from ramet.errors import InvalidConstraint
from ramet.grammar.nodes import MAX_CODE_POINT, SURROGATES, Chars, Literal, chars, complement
from ramet.grammar.unicode_sets import category, letter_set, with_case_variants

MAX_CLASS_RANGES = 200_000
EXCERPT_LENGTH = 24

CLASS = re.compile(r"\[\^?+\]?+(?:[^\\\]]|\\.)*\]", re.DOTALL)
CATEGORY = re.compile(r"\{(\w*)\}")
NAME = re.compile(r"\{([^}]*)\}")
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
OCTAL = "01234567"
HEX = "0123456789abcdefABCDEF"
BACKREFERENCE = re.compile(r"[89]|[1-7](?![0-7]{2})")  # three octal digits are a character


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags in force at a place of a pattern: ``(?i)`` and ``(?s)``."""

    ignore_case: bool = False
    dot_all: bool = False


class Source:
    """A pattern and how far it has been read."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.pattern)

    def take(self) -> str:
        """The next character; ``""`` at the end."""
        character = self.pattern[self.position : self.position + 1]
        self.position += 1
        return character

    def take_while(self, characters: str, most: int = MAX_CODE_POINT) -> str:
        """The next characters as long as they are among these."""
        start = self.position
        last = min(start + most, len(self.pattern))
        while self.position < last and self.pattern[self.position] in characters:
            self.position += 1
        return self.pattern[start : self.position]

    def starts_with(self, prefix: str | tuple[str, ...], position: int | None = None) -> bool:
        """Whether the pattern goes on so, from here or from a position."""
        return self.pattern.startswith(prefix, self.position if position is None else position)

    def error(self, what: str, position: int) -> InvalidConstraint:
        """The error to raise for what is found at a position."""
        excerpt = self.pattern[position : position + EXCERPT_LENGTH]
        return InvalidConstraint(f"regex: {what}, at position {position}: {excerpt!r}")


class CharacterReader:
    """Reads one character, or a set of them, from a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._classes: dict[tuple[str, bool], Chars] = {}  # by their text
        self._variants: dict[str, Chars | Literal] = {}
        self._num_ranges = 0

    def literal(self, character: str, position: int, flags: Flags) -> Chars | Literal:
        """A character that stands for itself."""
        point = ord(character)
        if SURROGATES[0] <= point <= SURROGATES[1]:
            raise self._source.error("a surrogate, which no text holds", position)
        if not flags.ignore_case:
            return Literal(character)
        known = self._variants.get(character)
        if known is None:
            variants = with_case_variants(Chars(((point, point),)))
            known = Literal(character) if variants.ranges == ((point, point),) else variants
            self._variants[character] = known
        return known

    def escape(self, position: int, flags: Flags) -> Chars | Literal:
        """What follows the backslash at a position, outside classes."""
        source = self._source
        if source.starts_with(("b", "B")):
            raise source.error("a word boundary is not supported", position)
        named = self._named_set(position)
        if named is not None:
            characters, has_case = named
            return with_case_variants(characters) if has_case and flags.ignore_case else characters
        if BACKREFERENCE.match(source.pattern, source.position):
            raise source.error("a backreference is not supported", position)
        return self.literal(self._one_character(position), position, flags)

    def character_class(self, position: int, flags: Flags) -> Chars:
        """What follows the bracket at a position, up to the one that closes it."""
        source = self._source
        found = CLASS.match(source.pattern, position)
        if found is None:
            raise source.error("a character class that is not closed", position)
        key = found[0], flags.ignore_case
        known = self._classes.get(key)
        if known is None:
            known = self._classes[key] = self._read_class(position, found.end() - 1, flags)
        source.position = found.end()
        return known

    def _read_class(self, start: int, end: int, flags: Flags) -> Chars:
        source = self._source
        source.position = start + 1
        is_negated = source.starts_with("^")
        source.position += is_negated
        ranges: list[tuple[int, int]] = []  # they have case variants
        others: list[tuple[int, int]] = []
        while source.position < end:
            position = source.position
            low = self._member(ranges, others)
            if not source.starts_with("-") or source.position + 1 == end:
                if low is not None:
                    ranges.append((low, low))
                continue
            source.take()
            high = self._member([], [])
            if low is None or high is None:
                raise source.error("a range from or to a set of characters", position)
            if high < low:
                raise source.error("a range whose first character comes after its last", position)
            ranges.append((low, high))
        cased = chars(*ranges)
        if flags.ignore_case:
            cased = with_case_variants(cased)
        self._num_ranges += len(ranges) + len(others) + len(cased.ranges)
        if self._num_ranges > MAX_CLASS_RANGES:
            raise source.error(f"character classes of more than {MAX_CLASS_RANGES:,} ranges together", start)
        characters = chars(*cased.ranges, *others)
        return complement(characters) if is_negated else characters

    def _member(self, cased: list[tuple[int, int]], others: list[tuple[int, int]]) -> int | None:
        """The next code point of a class. Sets are added to one of the lists, for None."""
        source = self._source
        position = source.position
        character = source.take()
        if character != "\\":
            return ord(character)
        if source.starts_with("b"):
            source.take()
            return ord("\b")
        named = self._named_set(position)
        if named is None:
            return ord(self._one_character(position, in_class=True))
        characters, has_case = named
        (cased if has_case else others).extend(characters.ranges)
        return None

    def _named_set(self, position: int) -> tuple[Chars, bool] | None:
        """The set of an escape such as ``\\w`` or ``\\p{Lu}``, and whether its case can be ignored."""
        source = self._source
        if source.at_end:
            raise source.error("a backslash at the end", position)
        letter = source.take()
        if letter in "dwsDWS":
            return letter_set(letter), False
        if letter in "pP":
            found = CATEGORY.match(source.pattern, source.position)
            characters = category(found[1]) if found else None
            if found is None or characters is None:
                raise source.error("not a Unicode category such as \\p{L} or \\p{Lu}", position)
            source.position = found.end()
            return (complement(characters) if letter == "P" else characters), True
        source.position -= 1
        return None

    def _one_character(self, position: int, *, in_class: bool = False) -> str:
        """The character of an escape that stands for a single one."""
        source = self._source
        letter = source.take()
        if letter in CONTROLS:
            return CONTROLS[letter]
        if letter in OCTAL:
            source.position -= 1
            point = int(source.take_while(OCTAL, 3), 8)
            if point > 0o377:
                raise source.error("an octal escape above \\377", position)
            return chr(point)
        if letter in HEX_LENGTHS:
            digits = source.take_while(HEX, HEX_LENGTHS[letter])
            point = int(digits, 16) if len(digits) == HEX_LENGTHS[letter] else MAX_CODE_POINT + 1
            if point > MAX_CODE_POINT:
                raise source.error(f"\\{letter} needs {HEX_LENGTHS[letter]} hexadecimal digits", position)
            return chr(point)
        if letter == "N":
            found = NAME.match(source.pattern, source.position)
            try:
                character = unicodedata.lookup(found[1]) if found else ""
            except KeyError:
                character = ""
            if found is None or len(character) != 1:
                raise source.error("not the name of a character", position)
            source.position = found.end()
            return character
        if letter.isascii() and letter.isalnum():
            what = "an anchor in a character class" if in_class and letter in "ABZ" else "an unknown escape"
            raise source.error(what, position)
        return letter
