"""The numbers JSON can write, and those of them that lie between bounds, as trees.

Every language here is finite, so that a number cannot run on for ever: an integer has at most `MAX_DIGITS`
digits and a fraction at most `MAX_PLACES`, more only where a bound asks for more. Invariant: each number is
written as ``json.dumps`` would, but that a fraction may end in zeros. Knows nothing of schemas.
"""

from __future__ import annotations

from decimal import Decimal

from ramet.grammar.nodes import EMPTY, Alternate, Chars, Concat, Literal, Node, Repeat, optional

MAX_DIGITS = 18
"""Of an integer without a bound: 18 digits always fit in 64 bits."""
MAX_PLACES = 20
"""After the point of a number without bounds: as many as the shortest text of a double can have."""
MAX_BOUND_DIGITS = 40
"""Of a bound: more before the point, or after it, are refused."""
EXACT_DIGITS = 15
"""Decimals of so many significant digits are told apart by doubles."""


def digit(low: int = 0, high: int = 9) -> Chars:
    """One decimal digit from ``low`` to ``high``."""
    return Chars(((48 + low, 48 + high),))


def digits(low: int, high: int | None = None) -> Repeat:
    """``low`` to ``high`` digits (exactly ``low`` by default)."""
    return Repeat(digit(), low, low if high is None else high)


def either(options: list[Node]) -> Node:
    """One of the options, of which there is at least one."""
    return options[0] if len(options) == 1 else Alternate(tuple(options))


def digits_between(low: str, high: str) -> Node:
    """The strings of as many digits as ``low`` and ``high``, from one to the other. Linear in size."""
    assert len(low) == len(high) and low <= high, (low, high)
    shared = 0
    while shared < len(low) and low[shared] == high[shared]:
        shared += 1
    if shared == len(low):
        return Literal(low)
    first, last, rest = int(low[shared]), int(high[shared]), len(low) - shared - 1
    below, above = low[shared + 1 :], high[shared + 1 :]
    options: list[Node] = []
    if below.strip("0"):
        options.append(Concat((digit(first, first), _at_least(below))))
        first += 1
    if above.strip("9"):
        options.append(Concat((digit(last, last), _at_most(above))))
        last -= 1
    if first <= last:
        options.append(Concat((digit(first, last), digits(rest))))
    return Concat((Literal(low[:shared]), either(options)))


def _at_least(low: str) -> Node:
    """Strings of as many digits, not less."""
    if not low.strip("0"):
        return digits(len(low))
    first, rest = int(low[0]), len(low) - 1
    options: list[Node] = [Concat((digit(first, first), _at_least(low[1:])))]
    if first < 9:
        options.append(Concat((digit(first + 1, 9), digits(rest))))
    return either(options)


def _at_most(high: str) -> Node:
    """Strings of as many digits, not more."""
    if not high.strip("9"):
        return digits(len(high))
    first, rest = int(high[0]), len(high) - 1
    options: list[Node] = [Concat((digit(first, first), _at_most(high[1:])))]
    if first > 0:
        options.append(Concat((digit(0, first - 1), digits(rest))))
    return either(options)


def naturals(low: int, high: int) -> Node:
    """The integers from ``low`` to ``high``, ``0 <= low <= high``, without leading zeros."""
    options: list[Node] = []
    if low < 10:
        options.append(digit(low, min(high, 9)))
    first, last = max(len(str(low)), 2), len(str(high))  # lengths that have all their numbers, once cut
    if first <= last and low > 10 ** (first - 1):
        most = min(high, 10**first - 1)
        options.append(digits_between(str(low), str(most)))
        first += 1
    if first <= last and high < 10**last - 1:
        options.append(digits_between(str(max(low, 10 ** (last - 1))), str(high)))
        last -= 1
    if first <= last:
        options.append(Concat((digit(1, 9), digits(first - 1, last - 1))))
    return either(options)


def integers(low: int | None = None, high: int | None = None) -> Node:
    """The integers from ``low`` to ``high``, ``low <= high``.

    Where there is no bound, at most `MAX_DIGITS` digits, or one more than the other bound has.
    """
    limit = (
        10 ** max([MAX_DIGITS, *(len(str(abs(bound))) + 1 for bound in (low, high) if bound is not None)]) - 1
    )
    low = -limit if low is None else low
    high = limit if high is None else high
    assert low <= high, (low, high)
    options: list[Node] = []
    if high >= 0:
        options.append(naturals(max(low, 0), high))
    if low < 0:
        options.append(Concat((Literal("-"), naturals(max(1, -high), -low))))
    return either(options)


def numbers() -> Node:
    """Any number: up to `MAX_DIGITS` digits and `MAX_PLACES` decimals, or below 1e308 with an exponent."""
    whole = Alternate((Literal("0"), Concat((digit(1, 9), digits(0, MAX_DIGITS - 1)))))
    point = Literal(".")
    plain = Concat((whole, optional(Concat((point, digits(1, MAX_PLACES))))))
    below_308 = Alternate(
        (digits(1, 2), Concat((digit(0, 2), digits(2))), Concat((Literal("30"), digit(0, 7))))
    )
    exponent = Alternate((Concat((optional(Literal("+")), below_308)), Concat((Literal("-"), digits(1, 3)))))
    scientific = Concat(
        (digit(1, 9), optional(Concat((point, digits(1, MAX_PLACES)))), Literal("e"), exponent)
    )
    return Concat((optional(Literal("-")), Alternate((plain, scientific))))


def decimals(
    low: Decimal | None, high: Decimal | None, *, low_open: bool = False, high_open: bool = False
) -> Node | None:
    """The numbers between two bounds in plain notation, or ``None`` if there are none (also none so short).

    An open bound does not belong to the numbers. The fractions have at most `EXACT_DIGITS` places, more if a
    closed bound has more, fewer beside an open bound that has digits before its point: so no number rounds to
    the bound when it is read as a double. Where there is no bound, there are at most `MAX_DIGITS` digits
    before the point, or one more than the other bound has.

    Raises:
        ValueError: a bound has too many digits to be kept to; the message says how many may be.
    """
    given = [(bound, is_open) for bound, is_open in ((low, low_open), (high, high_open)) if bound is not None]
    lengths = [(len(whole), len(fraction)) for whole, fraction in (_split(abs(bound)) for bound, _ in given)]
    if any(max(length) > MAX_BOUND_DIGITS for length in lengths):
        raise ValueError(f"a bound may have at most {MAX_BOUND_DIGITS} digits before and after the point")
    rooms = [
        EXACT_DIGITS - (whole if abs(bound) >= 1 else 0)
        for (bound, is_open), (whole, _) in zip(given, lengths, strict=True)
        if is_open
    ]
    places = min([EXACT_DIGITS, *rooms])
    most_places = max((fraction for _, fraction in lengths), default=0)
    if rooms and most_places > places:
        raise ValueError(f"beside an exclusive bound, the bounds may have at most {EXACT_DIGITS} digits")
    places = max(places, most_places)
    limit = Decimal(10) ** max([MAX_DIGITS, *(whole + 1 for whole, _ in lengths)])
    low, low_open = (-limit, True) if low is None else (low, low_open)
    high, high_open = (limit, True) if high is None else (high, high_open)
    options: list[Node] = []
    zero = Decimal(0)
    if high >= 0:
        positive = _magnitudes(max(low, zero), low_open and low >= 0, high, high_open, places)
        options += [positive] if positive is not None else []
    if low < 0:  # never "-0.0"
        negative = _magnitudes(max(-high, zero), high >= 0 or high_open, -low, low_open, places)
        options += [Concat((Literal("-"), negative))] if negative is not None else []
    return either(options) if options else None


def _split(bound: Decimal) -> tuple[str, str]:
    """The digits before the point, and those after it without the zeros at their end."""
    whole, _, fraction = format(bound, "f").partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


def _magnitudes(low: Decimal, low_open: bool, high: Decimal, high_open: bool, places: int) -> Node | None:
    """Numbers without a sign between two that are not negative."""
    if low > high:
        return None
    (low_whole, low_fraction), (high_whole, high_fraction) = _split(low), _split(high)
    least = None if not low_fraction and not low_open else _Edge(low_fraction, low_open)
    most = _Edge(high_fraction, high_open)
    if low_whole == high_whole:
        return _with_fraction(Literal(low_whole), least, most, places)
    options = []
    first = int(low_whole)
    if least is not None:
        options.append(_with_fraction(Literal(low_whole), least, None, places))
        first += 1
    if first < int(high_whole):
        options.append(_with_fraction(naturals(first, int(high_whole) - 1), None, None, places))
    options.append(_with_fraction(Literal(high_whole), None, most, places))
    found = [option for option in options if option is not None]
    return either(found) if found else None


class _Edge:
    """The digits of a bound that are still to come; the digits before were the bound's own."""

    __slots__ = ("is_open", "rest")

    def __init__(self, rest: str, is_open: bool) -> None:
        self.rest = rest  # without zeros at its end
        self.is_open = is_open

    def after(self) -> _Edge:
        return _Edge(self.rest[1:], self.is_open)

    @property
    def next_digit(self) -> int:
        return int(self.rest[0]) if self.rest else 0


def _with_fraction(whole: Node, low: _Edge | None, high: _Edge | None, places: int) -> Node | None:
    fraction = _more_digits(low, high, places)
    if fraction is not None:
        fraction = Concat((Literal("."), fraction))
    if _may_stop(low, high):
        return whole if fraction is None else Concat((whole, optional(fraction)))
    return None if fraction is None else Concat((whole, fraction))


def _may_stop(low: _Edge | None, high: _Edge | None) -> bool:
    """Whether the digits so far, with nothing but zeros after them, lie between the bounds."""
    above = low is None or (not low.rest and not low.is_open)
    return above and (high is None or bool(high.rest) or not high.is_open)


def _digits_after(low: _Edge | None, high: _Edge | None, places: int) -> Node | None:
    """Up to ``places`` more digits that keep the number between the bounds."""
    more = _more_digits(low, high, places)
    if not _may_stop(low, high):
        return more
    return EMPTY if more is None else optional(more)


def _more_digits(low: _Edge | None, high: _Edge | None, places: int) -> Node | None:
    """Like `_digits_after`, but at least one. ``None`` for a bound means that it is kept whatever comes."""
    if places == 0:
        return None
    if low is not None and not low.rest and not low.is_open:
        low = None
    if low is None and high is None:
        return digits(1, places)
    first = 0 if low is None else low.next_digit
    last = 9 if high is None else high.next_digit
    options: list[Node] = []

    def add(at: int, after_low: _Edge | None, after_high: _Edge | None) -> None:
        after = _digits_after(after_low, after_high, places - 1)
        if after is not None:
            options.append(Concat((digit(at, at), after)))

    if low is not None and high is not None and first == last:
        add(first, low.after(), high.after())
        return either(options) if options else None
    if low is not None:
        add(first, low.after(), None)
        first += 1
    if high is not None:
        add(last, None, high.after())
        last -= 1
    if first <= last:
        options.append(Concat((digit(first, last), digits(0, places - 1))))
    return either(options) if options else None
