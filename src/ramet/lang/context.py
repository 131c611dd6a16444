"""Which backend a program runs on: the one given, else the calling program's, else the default.

The default is the one piece of state the language keeps outside of programs; it lives here, alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ramet.backend import Backend
from ramet.errors import InvalidRequest
from ramet.facade import Facade


class _Default:
    """Holds the default backend for all threads (a context variable would hide it from new threads)."""

    def __init__(self) -> None:
        self.backend: Backend | None = None


_default = _Default()
_calling: ContextVar[Backend] = ContextVar("ramet_calling_backend")


def set_default_backend(backend: Backend | Facade | None) -> None:
    """Run programs on this backend where ``backend=`` is not given; ``None`` takes it back.

    Raises:
        InvalidRequest: it is not a backend.
    """
    _default.backend = None if backend is None else as_backend(backend)


def as_backend(value: object) -> Backend:
    """The backend itself, of an engine or a backend.

    Raises:
        InvalidRequest: it is neither.
    """
    if isinstance(value, Facade):
        return value.backend
    if isinstance(value, type):  # its methods would look right
        raise InvalidRequest(f"backend must be an object, got the class {value.__name__}")
    if isinstance(value, Backend):
        return value
    raise InvalidRequest(f"backend must be an engine or a Backend, got {value!r}")


def find_backend(given: object) -> Backend | None:
    """The backend given, else the calling program's, else the default, if there is one.

    Raises:
        InvalidRequest: what was given is no backend.
    """
    if given is not None:
        return as_backend(given)
    return _calling.get(None) or _default.backend


def choose_backend(given: object, program: str) -> Backend:
    """The backend for a run of a program.

    Raises:
        InvalidRequest: there is none, or what was given is not one.
    """
    backend = find_backend(given)
    if backend is None:
        raise InvalidRequest(
            f"program {program!r} has no backend to run on: pass one, as in {program}.run(..., "
            "backend=engine), or set one for all programs with set_default_backend(engine)"
        )
    return backend


@contextmanager
def calling(backend: Backend) -> Iterator[None]:
    """Programs called inside run on this backend unless they are given another."""
    token = _calling.set(backend)
    try:
        yield
    finally:
        _calling.reset(token)
