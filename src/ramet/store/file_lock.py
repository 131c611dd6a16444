"""A lock between processes, held on a file.

The operating system releases it when its holder dies, so a crash leaves nothing to clean up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt

    def _acquire(file: BinaryIO, *, wait: bool) -> None:
        while True:
            file.seek(0)
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:  # LK_LOCK gives up after ten seconds
                if not wait:
                    raise

else:
    import fcntl

    def _acquire(file: BinaryIO, *, wait: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def file_lock(path: Path, waiting: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Hold the lock on ``path`` (created if need be); inside ``waiting()`` while another has it."""
    with path.open("ab") as file:
        try:
            _acquire(file, wait=False)
        except OSError:
            with waiting():
                _acquire(file, wait=True)
        yield
