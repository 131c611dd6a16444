"""`Body`: what a program's own Python code came to, and who still cares."""

from __future__ import annotations

import asyncio
import weakref
from types import TracebackType
from typing import Any

from ramet.errors import RequestAborted
from ramet.lang.interpreter import Run


class Body:
    """The code of one run: its error, or what it returned.

    Every handle of the run holds this; when the last handle is dropped nobody can read anything any more, and
    what still runs is cancelled. So `Run` must not hold it, nor anything that leads back to a handle.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.error: BaseException | None = None
        self.ret_value: Any = None
        weakref.finalize(self, run.cancel).atexit = False

    def end(self, error: BaseException | None) -> None:
        """The code has returned or raised. From any thread."""
        cancelled = self.run.cancelled
        if isinstance(error, asyncio.CancelledError):  # not to be raised into a reader's own task
            error = cancelled or RequestAborted(f"{self.run.label} was cancelled")
        elif cancelled is not None and error is not None and error.__cause__ is cancelled:
            error = cancelled  # the code ended because it could not go on
        self.error = error
        self.run.end_body()

    def executing(self, keep_error: bool) -> Executing:
        """Around the code: what it raises is kept here, or raised with the run cancelled."""
        return Executing(self, keep_error)


class Executing:
    """See `Body.executing`."""

    def __init__(self, body: Body, keep_error: bool) -> None:
        self._body = body
        self._keep_error = keep_error

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._body.end(error)
        if error is not None and not self._keep_error:
            self._body.run.cancel()
        return error is not None and self._keep_error
