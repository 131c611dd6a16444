"""The formats of JSON Schema that are regular, as trees: dates, times, addresses, identifiers.

Invariant: every string of a language has the format. ``date``, ``ipv4`` and ``uuid`` are the whole format,
the others the part of it that docs/concepts/json-schema.md describes. Knows nothing of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

from ramet.grammar.json_numbers import digit, digits, digits_between, naturals
from ramet.grammar.nodes import Alternate, Chars, Concat, Literal, Node, Repeat, any_of, chars, optional


def _text(text: str) -> Literal:
    return Literal(text)


def _sequence(*parts: Node | str) -> Concat:
    return Concat(tuple(Literal(part) if isinstance(part, str) else part for part in parts))


def _either(*options: Node | str) -> Alternate:
    return Alternate(tuple(Literal(option) if isinstance(option, str) else option for option in options))


# -------------------------------------------------------------------------------------------- time (RFC 3339)


def _date() -> Node:
    """``YYYY-MM-DD``, from year 1 on: days that exist in the Gregorian calendar."""
    year = _either(
        _sequence(digit(1, 9), digits(3)),
        _sequence("0", digit(1, 9), digits(2)),
        _sequence("00", digit(1, 9), digits(1)),
        _sequence("000", digit(1, 9)),
    )
    fourth = _either(  # two digits that four divides, but 00
        _sequence("0", any_of("48")),
        _sequence(any_of("2468"), any_of("048")),
        _sequence(any_of("13579"), any_of("26")),
    )
    leap_year = _either(_sequence(digits(2), fourth), _sequence(fourth, "00"))
    long_month = _either(_sequence("0", any_of("13578")), _sequence("1", any_of("02")))
    short_month = _either(_sequence("0", any_of("469")), "11")
    day = _either(
        _sequence(long_month, "-", digits_between("01", "31")),
        _sequence(short_month, "-", digits_between("01", "30")),
        _sequence("02-", digits_between("01", "28")),
    )
    return _either(_sequence(year, "-", day), _sequence(leap_year, "-02-29"))


def _time() -> Node:
    """``HH:MM:SS``, up to six decimals, and an offset from UTC: no leap seconds."""
    minute = digits_between("00", "59")
    hour = digits_between("00", "23")
    fraction = _sequence(".", digits(1, 6))
    offset = _either("Z", _sequence(any_of("+-"), hour, ":", minute))
    return _sequence(hour, ":", minute, ":", minute, optional(fraction), offset)


def _duration() -> Node:
    """``P1DT2H``: up to four digits each, no part left out between two others (RFC 3339, appendix A)."""
    number = digits(1, 4)

    def chain(units: str) -> tuple[Node, ...]:
        """For each unit the durations that begin with it."""
        found: tuple[Node, ...] = ()
        for unit in reversed(units):
            rest = (optional(found[0]),) if found else ()
            found = (_sequence(number, unit, *rest), *found)
        return found

    time = _sequence("T", Alternate(chain("HMS")))
    return _sequence(
        "P", _either(_sequence(Alternate(chain("YMD")), optional(time)), time, _sequence(number, "W"))
    )


# ---------------------------------------------------------------------------------------- names and addresses

_LETTER_OR_DIGIT = chars((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A))
_LETTER = chars((0x41, 0x5A), (0x61, 0x7A))
_HEX = chars((0x30, 0x39), (0x41, 0x46), (0x61, 0x66))


def _label(words: int) -> Node:
    """Letters and digits, single hyphens between: up to ``words`` words of 20, which are less than 63."""
    word = Repeat(_LETTER_OR_DIGIT, 1, 20)
    return _sequence(word, Repeat(_sequence("-", word), 0, words - 1)) if words > 1 else word


def _host_name(words: int, labels: int) -> Node:
    return _sequence(_label(words), Repeat(_sequence(".", _label(words)), 0, labels - 1))


def _email() -> Node:
    """Words of letters, digits and ``_+-`` with dots between, ``@`` and a domain: at most 254 characters."""
    word = Repeat(Alternate((_LETTER_OR_DIGIT, any_of("_+-"))), 1, 20)
    local = _sequence(word, Repeat(_sequence(".", word), 0, 2))
    return _sequence(local, "@", _host_name(2, 4), ".", Repeat(_LETTER, 2, 12))


def _ipv4() -> Node:
    octet = naturals(0, 255)
    return _sequence(octet, Repeat(_sequence(".", octet), 3, 3))


def _ipv6() -> Node:
    """Groups of up to four hexadecimal digits, ``::`` for one or more of them; no IPv4 address at the end."""
    group = Repeat(_HEX, 1, 4)
    before = _sequence(group, ":")
    options: list[Node] = [_sequence(Repeat(before, 7, 7), group)]
    for left in range(8):
        right = 7 - left
        ending = _sequence(group, Repeat(_sequence(":", group), 0, right - 1)) if right else None
        beginning = _sequence(Repeat(before, left, left), ":") if left else _text("::")
        options.append(_sequence(beginning, optional(ending)) if ending is not None else beginning)
    return Alternate(tuple(options))


def _uuid() -> Node:
    def part(length: int) -> Node:
        return Repeat(_HEX, length, length)

    return _sequence(part(8), "-", part(4), "-", part(4), "-", part(4), "-", part(12))


_PATH_CHAR = Chars(
    any_of("!$&'()*+,-./0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~").ranges
)
_URI_HEAD = _sequence(
    _either("http", "https"), "://", _host_name(2, 4), optional(_sequence(":", naturals(1, 65535)))
)
URI_HEAD_LENGTH = 8 + 167 + 6
"""Most characters of a URI before its path."""


def uri(max_length: int | None) -> Node:
    """``http`` or ``https``, a host name, perhaps a port, path and query, and (without a limit) a fragment.

    Args:
        max_length: most characters, at least `URI_HEAD_LENGTH`.
    """
    escaped = _sequence("%", Repeat(_HEX, 2, 2))
    piece = Alternate((_PATH_CHAR, escaped))
    if max_length is None:
        fragment = _sequence("#", Repeat(piece, 0, None))
        return _sequence(_URI_HEAD, optional(_sequence("/", Repeat(piece, 0, None))), optional(fragment))
    room = max(max_length - URI_HEAD_LENGTH - 1, 0) // 3
    return _sequence(_URI_HEAD, optional(_sequence("/", Repeat(piece, 0, room))))


FORMATS: Mapping[str, Node] = {
    "date": _date(),
    "time": _time(),
    "date-time": _sequence(_date(), "T", _time()),
    "duration": _duration(),
    "email": _email(),
    "hostname": _host_name(3, 4),
    "ipv4": _ipv4(),
    "ipv6": _ipv6(),
    "uri": uri(None),
    "uuid": _uuid(),
}
"""The strings of each format, not escaped: no quotes, backslashes or control characters are among them."""
