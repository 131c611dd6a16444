"""What a text must be: the constraints a request can have, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, get_args

from ramet.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole text matches this pattern (see docs/concepts/constraints.md for the dialect)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The text is a JSON value that this schema accepts.

    Attributes:
        schema: the schema, as JSON text.
        whitespace: a pattern for what may stand between the parts of the value, such as ``[ \\n]{0,2}``;
            ``None`` is a space after ``:`` and ``,`` and nothing elsewhere, as ``json.dumps`` writes.
    """

    schema: str
    whitespace: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The text is one of these."""

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cfg:
    """The text is a sentence of this context-free grammar, in llguidance's Lark dialect."""

    grammar: str


Constraint: TypeAlias = Regex | JsonSchema | Choice | Cfg


def check_constraint(value: object) -> None:
    """Check that this is a constraint, or ``None``.

    Raises:
        InvalidRequest: it is not.
    """
    if value is not None and not isinstance(value, get_args(Constraint)):
        names = ", ".join(kind.__name__ for kind in get_args(Constraint))
        raise InvalidRequest(f"constraint must be one of {names}, got {type(value).__name__}")
