"""Times of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

_WARM_UPS = 3
_REPEATS = 7
_LEAST_SECONDS = 0.01  # of a repeat: far more than events can be wrong by


def device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the device for ``work``: the median of a few repeats of many calls, after some untimed."""
    for _ in range(_WARM_UPS):
        work()
    once = _timed(work, 1, device)
    calls = max(1, min(200, round(_LEAST_SECONDS / max(once, 1e-7))))
    return median(_timed(work, calls, device) / calls for _ in range(_REPEATS))


def recorded(work: Callable[[], object], device: torch.device, calls: int) -> Callable[[], object]:
    """So many calls of ``work`` as one, recorded in a CUDA graph: without what it costs to order them."""
    if device.type != "cuda":

        def repeat() -> None:
            for _ in range(calls):
                work()

        return repeat
    for _ in range(_WARM_UPS):
        work()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    return graph.replay


def _timed(work: Callable[[], object], calls: int, device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            work()
        return time.perf_counter() - started
    begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
    end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
