"""Error bodies back to errors: a client of a server raises what an engine in its own process would.

A body is ``{"error": {"message", "type", "param", "code"}}``, as OpenAI has it. What codes there are is for
`ramet.server.errors` to say; a test holds the two together.
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

_BY_CODE: Mapping[str, type[RametError]] = {
    "context_length_exceeded": PromptTooLong,
    "invalid_constraint": InvalidConstraint,
    "unsupported_feature": UnsupportedFeature,
    "model_not_found": ModelNotFound,
    "overloaded": Overloaded,
    "request_aborted": RequestAborted,
    "request_timeout": RequestTimeout,
    "engine_dead": EngineDead,
    "engine_error": EngineError,
}
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
    kind = _BY_CODE.get(detail.code or "") or _BY_STATUS.get(status or 0)
    if kind is not None:
        return kind(detail.message)
    hint = f"; {_HINTS[status]}" if status in _HINTS else ""
    return BackendError(f"{detail.message}{hint}", status=status, retryable=status in _RETRYABLE)
