"""Prompts as lists of parts: ``[{"type": "text", "text": "…"}, …]``, each with the fields of its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_args

import msgspec

from ramet.errors import InvalidRequest
from ramet.types import Generated, Part, Prompt, RoleBegin, RoleEnd, TemplateVariables, Text, Tokens

T = TypeVar("T")

PARTS: Mapping[str, type[Part]] = {
    "text": Text,
    "tokens": Tokens,
    "generated": Generated,
    "role_begin": RoleBegin,
    "role_end": RoleEnd,
    "template_variables": TemplateVariables,
}
_TAGS = {kind: tag for tag, kind in PARTS.items()}
assert set(_TAGS) == set(get_args(Part)), "every kind of part has a tag"

_FIELDS = {kind: frozenset(field.name for field in fields(kind)) for kind in _TAGS}

_OBJECT = msgspec.json.Decoder(dict[str, Any])


def encode_prompt(prompt: Prompt) -> list[dict[str, Any]]:
    """The parts of a prompt, ready for JSON."""
    return [{"type": _TAGS[type(part)], **msgspec.to_builtins(part)} for part in prompt.parts]


def decode_prompt(parts: Sequence[object], where: str = "prompt") -> Prompt:
    """The prompt that was encoded.

    Raises:
        InvalidRequest: something in it is no part; the message says what, and where.
    """
    return Prompt(tuple(_decode_part(part, f"{where}[{index}]") for index, part in enumerate(parts)))


def _decode_part(value: object, where: str) -> Part:
    given = dict(value) if isinstance(value, Mapping) else {}
    tag = given.pop("type", None)
    kind = PARTS.get(tag) if isinstance(tag, str) else None
    if kind is None:
        raise InvalidRequest(f"{where}.type must be one of {', '.join(PARTS)}, got {tag!r}")
    unknown = given.keys() - _FIELDS[kind]
    if unknown:
        raise InvalidRequest(f"{where}: a part of type {tag!r} has no field {min(unknown)!r}")
    part = decode_as(kind, given, where)
    match part:
        case RoleBegin(_, values) | TemplateVariables(values) if values:
            try:
                _OBJECT.decode(values)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise InvalidRequest(f"{where} must hold the text of a JSON object: {error}") from error
        case _:
            pass
    return part


def decode_as(kind: type[T], value: object, where: str) -> T:
    """JSON as a value of a class.

    Raises:
        InvalidRequest: it has other fields, or text that cannot be encoded (half of a surrogate pair).
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(value), type=kind)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{where}: {error}") from error
