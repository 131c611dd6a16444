"""What the machine can do at most: matrix rates and memory bandwidth, measured through torch.

Run as a script in a process of its own (`measure_limits` does), so that torch's threads are gone before
engines run. Each figure is the best of many repetitions: a limit, not an average.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

_LARGE_ROWS = (2048, 4096)
_FEW_ROWS = 32
_BUFFER_BYTES = 1 << 30  # far more than any cache
_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Limits:
    """Operations (two per multiply-add) and bytes per second."""

    threads: int
    int8: float
    bf16: float
    f32: float
    int8_few_rows: float
    bf16_few_rows: float
    f32_few_rows: float
    read_one_thread: float
    read: float


def measure_limits(threads: int, hidden_size: int, intermediate_size: int) -> Limits:
    """Measure in a child process, on matrices of the model's sizes and on larger ones."""
    sizes = [str(number) for number in (threads, hidden_size, intermediate_size)]
    done = subprocess.run([sys.executable, Path(__file__), *sizes], stdout=subprocess.PIPE, check=True)
    return Limits(**json.loads(done.stdout))


def _measure(threads: int, hidden: int, inner: int) -> Limits:
    import torch

    def rate(multiply: Callable[[int, int, int], Callable[[], object]], row_counts: tuple[int, ...]) -> float:
        shapes = [(hidden, inner), (inner, hidden), (2048, 2048)]
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
        reads: list[Callable[[], object]] = [numbers.sum, floats.sum, lambda: torch.dot(floats, floats)]
        return _BUFFER_BYTES / min(_best_time(read) for read in reads)

    torch.set_num_threads(threads)
    bf16, f32 = floating(torch.bfloat16), floating(torch.float32)
    few = (_FEW_ROWS,)
    with torch.inference_mode():
        rates = {
            "int8": rate(int8, _LARGE_ROWS),
            "bf16": rate(bf16, _LARGE_ROWS),
            "f32": rate(f32, _LARGE_ROWS),
            "int8_few_rows": rate(int8, few),
            "bf16_few_rows": rate(bf16, few),
            "f32_few_rows": rate(f32, few),
        }
        numbers = torch.ones(_BUFFER_BYTES // 8, dtype=torch.int64)
        floats = numbers.view(torch.float32)
        return Limits(threads=threads, **rates, read_one_thread=bandwidth(1), read=bandwidth(threads))


def _best_time(work: Callable[[], object]) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (started := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - started)
    return best


def _main() -> None:
    parser = argparse.ArgumentParser(description="Print what this machine can do at most, as JSON.")
    parser.add_argument("threads", type=int)
    parser.add_argument("hidden_size", type=int)
    parser.add_argument("intermediate_size", type=int)
    given = parser.parse_args()
    print(json.dumps(asdict(_measure(given.threads, given.hidden_size, given.intermediate_size))))


if __name__ == "__main__":
    _main()
