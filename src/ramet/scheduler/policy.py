"""Who is admitted next. A policy orders the waiting requests of one priority.

Adding one is a function and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ramet.radix import PrefixCache
from ramet.scheduler.request import Request

LPM_WINDOW = 128
LPM_MAX_STEPS_WAITED = 256

Policy: TypeAlias = Callable[[Sequence[Request], PrefixCache, int], list[Request]]


def fcfs(waiting: Sequence[Request], cache: PrefixCache, step: int) -> list[Request]:
    """First come, first served."""
    return list(waiting)


def lpm(waiting: Sequence[Request], cache: PrefixCache, step: int) -> list[Request]:
    """Longest prefix match first: the order that gives most cache hits (arXiv 2312.07104, Theorem 3.1).

    Left alone it starves requests that match nothing, so one that has waited LPM_MAX_STEPS_WAITED steps
    goes before all others. Only the LPM_WINDOW requests that came first are looked at: matching costs time.
    """
    window = waiting[:LPM_WINDOW]

    def rank(request: Request) -> tuple[bool, int]:
        if step - request.queued_at_step >= LPM_MAX_STEPS_WAITED:
            return (False, 0)
        return (True, -cache.match_length(request.path_tokens(), request.namespace))

    return sorted(window, key=rank) if len(window) > 1 else list(window)


POLICIES: dict[str, Policy] = {"fcfs": fcfs, "lpm": lpm}
