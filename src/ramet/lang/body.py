"""`Body`: what a program's own Python code came to, and who still cares."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def executing(self, keep_error: bool) -> Iterator[None]:
        """Around the code: what it raises is kept here, or raised with the run cancelled."""
        try:
            yield
        except BaseException as error:
            self.end(error)
            if not keep_error:
                self.run.cancel()
                raise
        else:
            self.end(None)
