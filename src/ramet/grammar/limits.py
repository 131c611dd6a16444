"""What building an automaton may cost: every step of it spends from one budget and stops when that is gone.

Invariant: no loop whose length a pattern can choose runs without spending. Knows nothing of automata.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ramet.errors import InvalidConstraint

CHECK_EVERY = 8192
"""Items between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far to go for one constraint.

    Attributes:
        max_states: of the automaton, over characters and then over bytes.
        max_nfa_states: characters of the pattern after its counted repeats are written out.
        max_work: items handled on the way; a bound for memory, and for time where the clock is another's.
        seconds: from the start of the building to its end.
    """

    max_states: int = 65_536
    max_nfa_states: int = 131_072
    max_work: int = 3_000_000
    seconds: float = 1.5


DEFAULT_LIMITS = Limits()


class Budget:
    """What is left of some `Limits`. All its methods raise `InvalidConstraint`, which names the limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._spent = 0
        self._next_check = CHECK_EVERY

    def spend(self, items: int) -> None:
        """Items that are about to be handled."""
        self._spent += items
        if self._spent < self._next_check:
            return
        self._next_check = self._spent + CHECK_EVERY
        if self._spent > self._limits.max_work:
            raise InvalidConstraint(
                f"the constraint takes more than max_work={self._limits.max_work:,} items to compile; "
                "avoid repeats that can match the same text in many ways"
            )
        if time.monotonic() > self._deadline:
            raise InvalidConstraint(
                f"the constraint takes more than {self._limits.seconds:g} seconds to compile; "
                "make it shorter, or its repeat counts smaller"
            )

    def check_states(self, num_states: int) -> None:
        if num_states > self._limits.max_states:
            raise InvalidConstraint(
                f"the constraint needs more than max_states={self._limits.max_states:,} automaton states; "
                "use smaller repeat counts, or narrower character classes inside them"
            )

    def check_nfa_states(self, num_states: int) -> None:
        if num_states > self._limits.max_nfa_states:
            raise InvalidConstraint(
                "the constraint, with its repeats written out, has more than "
                f"max_nfa_states={self._limits.max_nfa_states:,} characters; use smaller repeat counts"
            )
