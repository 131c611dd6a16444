"""One engine behind two pipes: a line of JSON in, a line of JSON out.

Runs in the engine's own Python, so it uses the standard library only. What the engine prints goes to standard
error, never into the answers. Times are taken here, around the call into the engine and nothing else.

Messages: ``{"op": "load", "options": {...}}``, then any number of ``{"op": "session", "calls": [...]}``.
Answers: ``{"ok": ...}`` or ``{"error": "why"}``. The process ends when its input does.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Options:
    """What to load: a path, and what the peer's kind asks for."""

    model: str
    threads: int
    workdir: str
    format: str | None
    device: Any = "cpu"  # "cpu" or "cuda"


@dataclass(frozen=True)
class Call:
    """Prompts given at once, ``prefix + suffix`` each; all of one length. Greedy, EOS ignored."""

    prefix: list[int]
    suffixes: list[list[int]]
    max_tokens: int
    cache: bool  # whether KV may be shared between prompts and kept after the call

    @property
    def prompts(self) -> list[list[int]]:
        return [self.prefix + suffix for suffix in self.suffixes]


class Adapter(Protocol):
    """An engine that is loaded."""

    def prepare(self, calls: list[Call]) -> None:
        """Get ready for these calls, untimed: forget cached prompts, allocate what they need."""
        ...

    def generate(self, call: Call) -> list[list[int]]:
        """The tokens generated, per prompt."""
        ...

    def counters(self) -> dict[str, int]:
        """Work counted since start, if the engine counts; their growth is reported per call."""
        ...


def serve(load: Callable[[Options], Adapter]) -> None:
    """Answer messages until the input ends."""
    die_with_parent()
    inbox, outbox = private_pipes()
    adapter: Adapter | None = None
    for line in inbox:
        message = json.loads(line)
        try:
            if message["op"] == "load":
                adapter = load(Options(**message["options"]))
                answer: dict[str, Any] = {"ok": None}
            elif adapter is None:
                answer = {"error": "nothing is loaded"}
            else:
                answer = {"ok": _session(adapter, [Call(**call) for call in message["calls"]])}
        except Exception as error:  # the top of this process's loop: whatever went wrong is the answer
            logger.exception("%s failed", message["op"])
            answer = {"error": f"{type(error).__name__}: {error}"}
        outbox.write(json.dumps(answer) + "\n")
        outbox.flush()


def _session(adapter: Adapter, calls: list[Call]) -> list[dict[str, Any]]:
    adapter.prepare(calls)
    return [_timed(adapter, call) for call in calls]


def _timed(adapter: Adapter, call: Call) -> dict[str, Any]:
    before, started = adapter.counters(), time.perf_counter()
    outputs = adapter.generate(call)
    seconds = time.perf_counter() - started
    work = {name: value - before[name] for name, value in adapter.counters().items()}
    lengths = {len(output) for output in outputs}
    if len(outputs) != len(call.suffixes) or lengths != {call.max_tokens}:
        raise ValueError(
            f"asked for {len(call.suffixes)} x {call.max_tokens} tokens, "
            f"got {len(outputs)} x {sorted(lengths)}"
        )
    return {"seconds": seconds, "tokens": outputs, "work": work}


def private_pipes() -> tuple[Any, Any]:
    """Copies of standard input and output; the engine gets /dev/null and standard error in their place."""
    inbox, outbox = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return inbox, outbox


def die_with_parent() -> None:
    """Linux: a benchmark that is killed leaves no engine behind, not even a stopped one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
