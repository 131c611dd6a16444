"""An engine in a process of its own: asked by lines of JSON, stopped while others run.

Invariant: an engine that is not being asked uses no CPU, whatever its idle threads would do: its whole
process group is stopped (SIGSTOP). Knows nothing of workloads or of what is asked.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class EngineFailed(Exception):
    """The engine said why it cannot, or died."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start an engine: a command that answers messages (`engine.peers.wire.serve`).

    ``options`` go to its adapter, ``environment`` is added to ours.
    """

    name: str
    command: Sequence[str | Path]
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


class EngineProcess:
    """A context manager; the engine loads on `start` and stays loaded."""

    def __init__(self, spec: EngineSpec, log: Path, *, timeout: float, settle: float = 0.0) -> None:
        """``timeout`` is what an answer may take; ``settle`` is how long the engine stands idle, not stopped,
        once it has loaded, both in seconds."""
        self.spec = spec
        self._log = log
        self._timeout = timeout
        self._settle = settle
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of the process, which is also its group.

        Raises:
            EngineFailed: it is not running.
        """
        if self._process is None:
            raise EngineFailed(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and load.

        Raises:
            EngineFailed: it cannot be started or does not load.
        """
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self.spec.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **self.spec.environment},
                    start_new_session=True,  # its own process group: stopped and ended as a whole
                )
            except OSError as error:
                raise EngineFailed(f"cannot start {self.spec.command[0]}: {error.strerror}") from error
        self._unread = b""
        self._ask({"op": "load", "options": dict(self.spec.options)})
        time.sleep(self._settle)
        self._signal(signal.SIGSTOP)

    def session(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run calls one after the other; returns seconds, tokens and counted work of each.

        Raises:
            EngineFailed: one of them failed, or took longer than the limit.
        """
        self._signal(signal.SIGCONT)
        answers: list[dict[str, Any]] = self._ask({"op": "session", "calls": calls})
        self._signal(signal.SIGSTOP)
        return answers

    def close(self) -> None:
        """End the process group, asked nicely first."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        _signal_group(process.pid, signal.SIGCONT)
        with suppress(BrokenPipeError):
            process.stdin.close()  # its loop ends with its input
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, message: dict[str, Any]) -> Any:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._read_line())
        except (BrokenPipeError, EOFError):
            self._process.wait()
            reason = f"its process ended with {self._process.returncode}: {self._last_words()}"
            self.close()
            raise EngineFailed(reason) from None
        except TimeoutError:
            self.close()
            raise EngineFailed(f"no answer within {self._timeout:.0f} s") from None
        if "error" in answer:
            self.close()  # in what state it is now nobody knows
            raise EngineFailed(answer["error"])
        return answer["ok"]

    def _read_line(self) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError
            received = os.read(pipe, 1 << 20)
            if not received:
                raise EOFError
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'no output'} (see {self._log})"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            _signal_group(self._process.pid, number)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
