"""Has a KV pool backed by memory before it is needed.

A pool is reserved at once and filled slowly, and a page of it costs time when it is first touched: in the
middle of a step, unless it was touched before, while nothing else was to be done. Must not know: models.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOST_PIECES = 512
"""Of 2 MB. The rest of a larger pool comes page by page: an engine should not take more than it uses."""

IDLE_SECONDS = 0.05

Populate = Callable[[int], bool]
"""Backs the piece of this index with memory; false if there is none or the system cannot."""


class PoolMemory:
    """Populates a pool piece by piece on a thread of its own, whenever there has been no step for a while.

    A context manager, to be entered around each step: nothing new is populated meanwhile.
    """

    def __init__(self, populate: Populate) -> None:
        self._populate = populate
        self._in_use = 0
        self._last_use = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ramet-pool-memory", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._in_use += 1

    def __exit__(self, *_: object) -> None:
        self._in_use -= 1
        self._last_use = time.monotonic()

    def close(self) -> None:
        """Populate nothing more. Waits for the piece under way: it must not outlive the interpreter."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        for piece in range(MOST_PIECES):
            while not self._is_idle():
                if self._closed.wait(IDLE_SECONDS):
                    return
            if self._closed.is_set() or not self._populate(piece):
                return

    def _is_idle(self) -> bool:
        return self._in_use == 0 and time.monotonic() - self._last_use > IDLE_SECONDS
