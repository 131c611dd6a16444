"""What a program appends to its state: frozen expressions that combine with ``+``.

Invariant: an expression is a value. Nothing runs when it is made, and it may be appended many times,
to many states. It must not know states, streams or backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ramet.errors import InvalidRequest
from ramet.lang.select import ChoicesMethod
from ramet.typed import Parse
from ramet.types import Role


class Expr:
    """Base of all expressions. ``+`` joins expressions and strings on either side."""

    __slots__ = ()

    def __add__(self, other: str | Expr) -> ExprList:
        return join(self, other) if isinstance(other, (str, Expr)) else NotImplemented

    def __radd__(self, other: str) -> ExprList:
        return join(other, self) if isinstance(other, str) else NotImplemented

    def __format__(self, spec: str) -> str:
        """Refused: an f-string would put the expression's ``repr`` into the prompt.

        Raises:
            InvalidRequest: always.
        """
        raise InvalidRequest(f'{self!r} cannot stand in an f-string; join it with +: "text" + gen(...)')


@dataclass(frozen=True, slots=True)
class Const(Expr):
    """Text."""

    text: str


@dataclass(frozen=True, slots=True)
class Gen(Expr):
    """Text for the model to write. ``sampling`` holds the fields of `SamplingParams` it sets; ``parse``
    reads its value from the text, if it has a type."""

    name: str | None
    sampling: Mapping[str, Any]
    parse: Parse | None = None


@dataclass(frozen=True, slots=True)
class Select(Expr):
    """A choice for the model to make."""

    name: str | None
    choices: tuple[str, ...]
    method: ChoicesMethod


@dataclass(frozen=True, slots=True)
class RoleBegin(Expr):
    """A message begins."""

    role: Role


@dataclass(frozen=True, slots=True)
class RoleEnd(Expr):
    """The message ends."""

    role: Role


Node: TypeAlias = Const | Gen | Select | RoleBegin | RoleEnd


@dataclass(frozen=True, slots=True)
class ExprList(Expr):
    """Expressions in a row; flat, with neighbouring texts joined."""

    nodes: tuple[Node, ...]


def as_nodes(value: object) -> tuple[Node, ...]:
    """The nodes of a string or an expression.

    Raises:
        InvalidRequest: it is neither.
    """
    match value:
        case str():
            return (Const(value),) if value else ()
        case ExprList():
            return value.nodes
        case Const() | Gen() | Select() | RoleBegin() | RoleEnd():
            return (value,)
        case None:
            raise InvalidRequest("cannot append None to a program; did a function forget to return?")
        case _:
            raise InvalidRequest(
                f"cannot append {type(value).__name__} to a program; expected a string or an expression "
                "such as gen(...) or select(...)"
            )


def check_name(name: object) -> None:
    """Check that a variable can have this name.

    Raises:
        InvalidRequest: it is not a string.
    """
    if not isinstance(name, str):
        raise InvalidRequest(f"the name of a variable must be a string, got {type(name).__name__}")


def join(*values: object) -> ExprList:
    """Strings and expressions as one expression."""
    nodes: list[Node] = []
    for value in values:
        for node in as_nodes(value):
            last = nodes[-1] if nodes else None
            if isinstance(node, Const) and isinstance(last, Const):
                nodes[-1] = Const(last.text + node.text)
            else:
                nodes.append(node)
    return ExprList(tuple(nodes))
