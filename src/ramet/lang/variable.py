"""A variable of a program: a value that will be there, or the reason why it will not.

Invariant: settled exactly once, on the event loop or (for values the program sets itself) before anyone
sees it; read from any thread. The deltas are written and read on the event loop only.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ramet.event_loop import shared_future
from ramet.typed import Parse

Delta: TypeAlias = tuple[str, dict[str, Any]]
"""A piece of streamed text, and what is known of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The value of a variable, and its meta information (``None`` if the program set it).

    Attributes:
        parse: from its text (or the texts of ``n > 1``) to a value, if it has a type.
        parts: of a variable that a join has gathered, the outcomes of the forks.
    """

    value: Any
    meta: Any = None
    parse: Parse | None = None
    parts: tuple[Outcome, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """One assignment. Setting a name again makes another `Variable`."""

    outcome: Future[Outcome] = field(default_factory=shared_future)
    deltas: list[Delta] = field(default_factory=list)
    parse: Parse | None = None  # from its text to its value, if it has a type

    @classmethod
    def of(cls, value: object) -> Variable:
        """One that already has its value."""
        variable = cls()
        variable.resolve(value)
        return variable

    @property
    def settled(self) -> bool:
        return self.outcome.done()

    def resolve(self, value: object, meta: object = None) -> None:
        self.outcome.set_result(Outcome(value, meta, self.parse))

    def gather(self, parts: Sequence[Outcome]) -> None:
        """Resolve to the list of what forks have set."""
        values, metas = [part.value for part in parts], [part.meta for part in parts]
        self.outcome.set_result(Outcome(values, metas, parts=tuple(parts)))

    def abandon(self, error: BaseException) -> None:
        """It will not get a value, unless it already has one."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
