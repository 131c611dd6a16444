"""What it costs to order a kernel from Python. Importing this needs Triton."""

from __future__ import annotations

import time
from typing import Any

import torch
import triton


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _empty(pointer: Any) -> None:
    pass


def launch_empty(device: torch.device, *, launches: int) -> float:
    """Seconds of Python per launch, while the device keeps up."""
    tensor = torch.empty(1, device=device)
    for _ in range(10):
        _empty[(1,)](tensor)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(launches):
        _empty[(1,)](tensor)
    seconds = time.perf_counter() - started
    torch.cuda.synchronize(device)
    return seconds / launches
