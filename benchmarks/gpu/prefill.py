"""Prompts: tokens per second, and the share of the matrix rate."""

from __future__ import annotations

import time
from statistics import median

from gpu.bench import Bench
from gpu.driving import GREEDY, Loaded
from gpu.settings import Cell


def run(bench: Bench) -> None:
    """The large shape."""
    measure(bench, bench.sizes.large)


def run_small(bench: Bench) -> None:
    """The small shape."""
    measure(bench, bench.sizes.small)


def measure(bench: Bench, name: str) -> None:
    """All prompts, computed in steps of each largest size."""
    loaded = bench.load(name)
    for count, length in bench.sizes.prompts:
        for chunk in bench.sizes.chunks:
            row_of(bench, f"prefill, {name}", loaded, count, length, chunk)


def row_of(
    bench: Bench, table: str, loaded: Loaded, count: int, length: int, chunk: int, **labels: Cell
) -> float:
    """Measure one combination and report it; returns seconds."""
    _once(loaded, count, length, chunk)
    seconds = median(_once(loaded, count, length, chunk) for _ in range(bench.sizes.runs))
    tokens = count * length
    done = loaded.shape.operations(tokens, count * length * (length + 1) // 2, count)
    bench.row(
        table,
        {
            **labels,
            "prompts": f"{count} x {length:,}",
            "tokens a step": chunk,
            "ms": 1e3 * seconds,
            "tokens/s": tokens / seconds,
            "TFLOP/s": done / seconds / 1e12,
            "share of limit": done / seconds / bench.limits.matrix,
        },
    )
    return seconds


def _once(loaded: Loaded, count: int, length: int, chunk: int) -> float:
    """Seconds for new prompts, from their arrival until each has its first token."""
    driven = loaded.core(max_batch_tokens=chunk)
    prompts = [loaded.prompt(length) for _ in range(count)]
    started = time.perf_counter()
    driven.add(prompts, GREEDY)
    driven.run()
    return time.perf_counter() - started
