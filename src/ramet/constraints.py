"""What a text must be: the constraints a request can have, as frozen values.

Invariant: the fields have the types they say, and their text can be encoded in UTF-8. Whether a pattern,
schema or grammar makes sense is for the compiler to say. They are tagged, so that a message can hold any of
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from msgspec import Struct
from msgspec.structs import force_setattr

from ramet.errors import InvalidConstraint, InvalidRequest


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidConstraint(f"{name} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidConstraint(
            f"{name} has a surrogate, which is no character: {value[error.start]!r} at position {error.start}"
        ) from error


class Regex(Struct, frozen=True, tag=True):
    """The whole text matches this pattern (see docs/concepts/constraints.md for the dialect).

    Raises:
        InvalidConstraint: it is not a string, or has surrogates.
    """

    pattern: str

    def __post_init__(self) -> None:
        _check_text("regex", self.pattern)


class JsonSchema(Struct, frozen=True, tag=True):
    """The text is a JSON value that this schema accepts.

    Attributes:
        schema: the schema, as JSON text. A dict (or a bool) may be given, and is written as JSON.
        whitespace: a pattern for what may stand between the parts of the value, such as ``[ \\n]{0,2}``;
            ``None`` is a space after ``:`` and ``,`` and nothing elsewhere, as ``json.dumps`` writes.

    Raises:
        InvalidConstraint: a field of another type, a dict that cannot be written as JSON, or surrogates.
    """

    schema: str
    whitespace: str | None = None

    if TYPE_CHECKING:  # what may be given is wider than what is kept

        def __init__(self, schema: str | bool | Mapping[str, Any], whitespace: str | None = None) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.schema, (Mapping, bool)):
            force_setattr(self, "schema", _as_json(self.schema))
        _check_text("json_schema", self.schema)
        if self.whitespace is not None:
            _check_text("whitespace", self.whitespace)


def _as_json(schema: object) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConstraint(f"json_schema cannot be written as JSON: {error}") from error


class Choice(Struct, frozen=True, tag=True):
    """The text is one of these.

    Attributes:
        choices: at least one. Any sequence of strings may be given, and is kept as a tuple.

    Raises:
        InvalidConstraint: not a sequence of strings, an empty one, or surrogates.
    """

    choices: tuple[str, ...]

    if TYPE_CHECKING:  # what may be given is wider than what is kept

        def __init__(self, choices: Sequence[str]) -> None: ...

    def __post_init__(self) -> None:
        given: object = self.choices
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            raise InvalidConstraint(f"choices must be a list of strings, got {type(given).__name__}")
        if not given:
            raise InvalidConstraint("choices must not be empty")
        for index, choice in enumerate(given):
            _check_text(f"choices[{index}]", choice)
        force_setattr(self, "choices", tuple(given))


class Cfg(Struct, frozen=True, tag=True):
    """The text is a sentence of this context-free grammar, in llguidance's Lark dialect or in GBNF.

    Raises:
        InvalidConstraint: it is not a string, or has surrogates.
    """

    grammar: str

    def __post_init__(self) -> None:
        _check_text("grammar", self.grammar)


Constraint: TypeAlias = Regex | JsonSchema | Choice | Cfg


def check_constraint(value: object) -> None:
    """Check that this is a constraint, or ``None``.

    Raises:
        InvalidRequest: it is not.
    """
    if value is not None and not isinstance(value, get_args(Constraint)):
        names = ", ".join(kind.__name__ for kind in get_args(Constraint))
        raise InvalidRequest(f"constraint must be one of {names}, got {type(value).__name__}")
