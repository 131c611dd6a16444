"""Programs that a section runs: with a time limit, and gone with all they started when it is over."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


def finished(
    command: Sequence[str | Path],
    *,
    seconds: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a program; returns its exit status and all it said.

    Raises:
        TimeoutError: it took longer; with the end of what it said.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # a group of its own, so that nothing of it stays behind
    )
    try:
        said, _ = process.communicate(timeout=seconds)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        _end_group(process.pid)
        said, _ = process.communicate()
        raise TimeoutError(f"no end within {seconds:.0f} s; it said last: {said[-500:]}") from None
    finally:
        _end_group(process.pid)


def _end_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
