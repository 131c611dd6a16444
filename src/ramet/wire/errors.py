"""Error bodies back to errors: a client of a server raises what an engine in its own process would.

A body is ``{"error": {"message", "type", "param", "code"}}``, as OpenAI has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ramet.errors import (
    BackendError,
    EngineDead,
    EngineError,
    InvalidConstraint,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    RametError,
    RequestAborted,
    RequestTimeout,
    UnsupportedFeature,
)

CODES: Mapping[type[RametError], str] = {
    PromptTooLong: "context_length_exceeded",
    InvalidConstraint: "invalid_constraint",
    UnsupportedFeature: "unsupported_feature",
    ModelNotFound: "model_not_found",
    Overloaded: "overloaded",
    RequestAborted: "request_aborted",
    RequestTimeout: "request_timeout",
    EngineDead: "engine_dead",
    EngineError: "engine_error",
    BackendError: "backend_error",
}
"""The code of an error of each class. An `InvalidRequest` that is nothing more special has none."""

_BY_CODE = {code: kind for kind, code in CODES.items()}
_BY_STATUS: Mapping[int, type[RametError]] = {400: InvalidRequest, 413: InvalidRequest, 429: Overloaded}

_HINTS = {
    401: "pass api_key=",
    404: "is this the address of a Ramet server?",
}
_RETRYABLE = frozenset({408, 502, 503, 504})


class BadAnswer(BackendError):
    """What came is not what a Ramet server answers."""


class _Detail(msgspec.Struct):
    message: str
    code: str | None = None


class _Body(msgspec.Struct):
    error: _Detail


def error_from(content: bytes | Mapping[str, Any], status: int | None = None) -> RametError:
    """The error that a body describes.

    Args:
        content: the body, or an event of a stream.
        status: of the response; ``None`` if it began well.
    """
    try:
        detail = (
            msgspec.json.decode(content, type=_Body)
            if isinstance(content, bytes)
            else msgspec.convert(content, _Body)
        ).error
    except msgspec.MsgspecError:  # something else answered: a proxy, say
        text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
        detail = _Detail(text.strip()[:200] or "the answer is empty")
    kind = _BY_CODE.get(detail.code or "") or _BY_STATUS.get(status or 0, BackendError)
    if kind is not BackendError:
        return kind(detail.message)
    hint = f"; {_HINTS[status]}" if status in _HINTS else ""
    return BackendError(f"{detail.message}{hint}", status=status, retryable=status in _RETRYABLE)
