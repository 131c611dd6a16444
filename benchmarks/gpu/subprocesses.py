"""Programs that a section runs: with a time limit, and gone with all they started when it is over."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_LAST_WORDS = 5.0  # seconds


def finished(command: Sequence[str | Path], *, seconds: float, log: Path, cwd: Path | None = None) -> int:
    """Run a program; returns its exit status. What it says goes to ``log``, and is there whatever happens.

    Raises:
        TimeoutError: it took longer; it was interrupted then, so as to say how far it got.
    """
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,  # a group of its own, so that nothing of it stays behind
        )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_LAST_WORDS)
        raise TimeoutError(f"no end within {seconds:.0f} s; see {log}") from None
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
