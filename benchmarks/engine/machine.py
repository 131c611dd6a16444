"""Measures what the machine can do at most, through torch; run as a script and asked by `engine.limits`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

_LARGE_ROWS = (2048, 4096)
_FEW_ROWS = (32,)
_BUFFER_BYTES = 1 << 30  # far more than any cache
_SECONDS = 0.4


def _serve() -> None:
    """Answer messages like an engine (`engine.peers.wire`), with rates in place of tokens."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from engine.peers.wire import die_with_parent, private_pipes

    die_with_parent()
    inbox, outbox = private_pipes()
    measures: dict[str, Callable[[], float]] = {}
    for line in inbox:
        message = json.loads(line)
        answer: list[dict[str, float]] = []
        if message["op"] == "load":
            measures = _measures(**message["options"])
        else:
            answer = [{name: measures[name]() for name in call["names"]} for call in message["calls"]]
        outbox.write(json.dumps({"ok": answer}) + "\n")
        outbox.flush()


def _measures(threads: int, hidden: int, inner: int) -> dict[str, Callable[[], float]]:
    import torch

    def rate(multiply: Callable[[int, int, int], Callable[[], object]], row_counts: tuple[int, ...]) -> float:
        torch.set_num_threads(threads)
        shapes = [(hidden, inner), (inner, hidden), (2048, 2048)]
        with torch.inference_mode():
            return max(
                2 * rows * inputs * outputs / _best_time(multiply(rows, inputs, outputs))
                for rows in row_counts
                for inputs, outputs in shapes
            )

    def int8(rows: int, inputs: int, outputs: int) -> Callable[[], object]:
        activations = torch.randint(-127, 127, (rows, inputs), dtype=torch.int8)
        weights = torch.randint(-127, 127, (inputs, outputs), dtype=torch.int8)
        return lambda: torch._int_mm(activations, weights)

    def floating(dtype: torch.dtype) -> Callable[[int, int, int], Callable[[], object]]:
        def multiply(rows: int, inputs: int, outputs: int) -> Callable[[], object]:
            activations = torch.randn(rows, inputs).to(dtype)
            weights = torch.randn(outputs, inputs).to(dtype)
            return lambda: torch.nn.functional.linear(activations, weights)

        return multiply

    def bandwidth(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        numbers = torch.ones(
            _BUFFER_BYTES // 8, dtype=torch.int64
        )  # engines need the memory when it is their turn
        floats = numbers.view(torch.float32)
        reads: list[Callable[[], object]] = [numbers.sum, floats.sum, lambda: torch.dot(floats, floats)]
        return _BUFFER_BYTES / min(_best_time(read) for read in reads)

    bf16, f32 = floating(torch.bfloat16), floating(torch.float32)
    return {
        "int8": lambda: rate(int8, _LARGE_ROWS),
        "bf16": lambda: rate(bf16, _LARGE_ROWS),
        "f32": lambda: rate(f32, _LARGE_ROWS),
        "int8 of 32 rows": lambda: rate(int8, _FEW_ROWS),
        "bf16 of 32 rows": lambda: rate(bf16, _FEW_ROWS),
        "f32 of 32 rows": lambda: rate(f32, _FEW_ROWS),
        "memory read": lambda: bandwidth(threads),
        "memory read by one thread": lambda: bandwidth(1),
    }


def _best_time(work: Callable[[], object]) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (started := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    _serve()
