"""What the bodies of both interfaces have in common: how they are read, and that the first error will do.

A body may have megabytes, and whoever reads it keeps everybody waiting. It may hold millions of wrong things,
and to describe each of them would take minutes. Must not know: what is in a body.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self

import msgspec
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FAIL_FAST = Field(fail_fast=True)
"""Of a list: it is not looked at beyond the first wrong item."""

_BOM = b"\xef\xbb\xbf"
_END = b" " * 6  # without it msgspec says of half a surrogate pair near the end that the input was truncated


@contextmanager
def no_collections() -> Iterator[None]:
    """Collect no garbage meanwhile: who reads a body makes millions of values, and none of them is garbage.

    To look through them again and again would take ten times as long as the reading.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class BodyRoute(APIRoute):
    """A route whose body is JSON by the letter: in UTF-8, no ``NaN``, no half of a surrogate pair."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return read_and_handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        content = await self.body()
        try:
            with no_collections():
                return msgspec.json.decode(content.removeprefix(_BOM) + _END)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is not valid: {error}") from error


class Body(BaseModel):
    """An object in a body. Values have the types they should have: ``"1"`` is no number."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _is_read_at_once(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        with no_collections():
            return read(cls._to_check(given) if isinstance(given, dict) else given)

    @classmethod
    def _to_check(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The fields that are known, and the first that is not."""
        known = {info.alias or name for name, info in cls.model_fields.items()} | cls.model_fields.keys()
        unknown = (name for name in given if name not in known and not cls._asks_nothing(name, given[name]))
        kept = known.union(islice(unknown, 1)) & given.keys()
        return {name: given[name] for name in kept if not cls._asks_nothing(name, given[name])}

    @classmethod
    def _asks_nothing(cls, name: str, value: object) -> bool:
        """Whether a field is as if it were not there."""
        return False
