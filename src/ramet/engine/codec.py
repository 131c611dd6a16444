"""Messages as bytes and back, for a core in a process of its own.

Invariant: whatever is decoded has the types it is declared with, and an error is one of `ramet.errors`:
its class travels by name, its message as text. No code travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from ramet import errors
from ramet.config import EngineConfig
from ramet.engine.messages import Message, Output
from ramet.errors import InvalidRequest, RametError
from ramet.model_card import ModelCard


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a core in a process is told first, as a line of JSON."""

    config: EngineConfig
    path: str  # where the model lies
    directory: str  # where the sockets lie: see `socket_address`
    log_level: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The first that a core in a process says: it has loaded its model."""

    card: ModelCard
    seconds: float  # that took


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The last: it has stopped as it was told to, or with an error; without a `Ready`, it has not begun."""

    error: RametError | None = None


Report: TypeAlias = Output | Ready | Ended

_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, RametError)
}


def socket_address(directory: str, kind: Literal["messages", "reports"]) -> str:
    """Where a core in a process takes messages, or where it reports to."""
    return f"ipc://{directory}/{kind}"


def encode(items: Sequence[Message] | Sequence[Report]) -> bytes:
    """Messages, or what a core reports, as bytes.

    Raises:
        InvalidRequest: a value that has no place in a message, such as half a character or a huge integer.
    """
    try:
        return _encoder.encode(items)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"the request cannot be sent to the engine: {error}") from error


def decode_messages(data: bytes) -> list[Message]:
    """What was encoded.

    Raises:
        msgspec.ValidationError: the bytes are something else.
    """
    return _messages.decode(data)


def decode_reports(data: bytes) -> list[Report]:
    """What was encoded.

    Raises:
        msgspec.ValidationError: the bytes are something else.
    """
    return _reports.decode(data)


def _encode_error(value: Any) -> list[str]:
    if isinstance(value, RametError):
        names = (kind.__name__ for kind in type(value).__mro__)
        return [next(name for name in names if name in _ERRORS), str(value)]
    raise TypeError(f"{type(value).__name__} has no place in a message")


def _decode_error(kind: type, value: Any) -> RametError:
    name, text = value
    return _ERRORS[name](text)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_error)
_messages = msgspec.msgpack.Decoder(list[Message])
_reports = msgspec.msgpack.Decoder(list[Report], dec_hook=_decode_error)
