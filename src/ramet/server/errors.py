"""Errors on the wire: which status an error has, and its body in OpenAI's shape."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

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
from ramet.wire.errors import CODES

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
CLIENT_CLOSED_REQUEST = 499  # what servers log when the client gave up; nobody is there to read it


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """OpenAI's error object."""

    error: ErrorDetail


_STATUSES: tuple[tuple[type[RametError], int, str], ...] = (
    # the first that fits: status, type
    (PromptTooLong, 400, "invalid_request_error"),
    (InvalidConstraint, 400, "invalid_request_error"),
    (UnsupportedFeature, 400, "invalid_request_error"),
    (InvalidRequest, 400, "invalid_request_error"),
    (ModelNotFound, 404, "invalid_request_error"),
    (Overloaded, 429, "overloaded_error"),
    (RequestAborted, CLIENT_CLOSED_REQUEST, "aborted"),
    (RequestTimeout, 504, "timeout_error"),
    (EngineDead, 503, "server_error"),
    (EngineError, 500, "server_error"),
    (BackendError, 502, "server_error"),
    (RametError, 500, "server_error"),
)


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> ErrorBody:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe(error: RametError) -> tuple[int, ErrorBody]:
    """The status and body of an error that was raised on purpose."""
    for kind, status, name in _STATUSES:
        if isinstance(error, kind):
            return status, error_body(str(error), name, CODES.get(kind))
    raise AssertionError(error)


def error_response(status: int, body: ErrorBody) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in (429, 503) else None
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, status, headers, "application/json")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's documentation says about these statuses."""
    return {
        status: {"description": _phrase(status), "model": ErrorBody}
        for status in sorted({*statuses, 400, 401, 403, 405, 408, 413, 429, 499, 500, 503, 504})
    }


def add_error_handlers(app: FastAPI) -> None:
    """Every error leaves the server in one shape."""

    async def on_ramet_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RametError)
        return error_response(*describe(error))

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        message, param = _first_problem(error)
        return error_response(400, error_body(message, "invalid_request_error", param=param))

    async def on_deep_nesting(request: Request, error: Exception) -> Response:
        return error_response(400, error_body("the body is nested too deeply", "invalid_request_error"))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        response = error_response(error.status_code, error_body(str(error.detail), kind))
        response.headers.update(error.headers or {})
        return response

    async def on_defect(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, error_body("the server failed on this request", "server_error"))

    app.add_exception_handler(RametError, on_ramet_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RecursionError, on_deep_nesting)
    app.add_exception_handler(Exception, on_defect)


def _first_problem(error: RequestValidationError) -> tuple[str, str | None]:
    """What is wrong with the first wrong field, and its path."""
    problem = error.errors()[0]
    path = ".".join(str(step) for step in problem["loc"] if step != "body")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:
        return f"the body is not valid: {message}", None
    return f"{path}: {message}", path


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request"
