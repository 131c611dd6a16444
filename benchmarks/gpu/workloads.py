"""The workloads of ``benchmarks/engine`` with real weights, on the device."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from statistics import median

from engine.workloads import Sizes, Workloads
from gpu.bench import Bench
from gpu.settings import Skip
from gpu.subprocesses import finished

_ENGINE = Path(__file__).resolve().parents[1] / "engine"
_MOST_THREADS = 8


def run(bench: Bench) -> None:
    """Run that benchmark in a process of its own and read what it wrote.

    Raises:
        Skip: there is no model.
        RuntimeError: it failed.
    """
    if bench.settings.model is None:
        raise Skip("no --model: real weights are not here")
    bench.unload()
    written = bench.settings.out / "engine.json"
    options: dict[str, str | Path] = {
        "--device": bench.device.type,
        "--model": bench.settings.model,
        "--threads": str(min(_MOST_THREADS, len(os.sched_getaffinity(0)))),
        "--runs": str(bench.sizes.runs),
        "--workdir": bench.settings.folder / "engine",
        "--json": written,
    }
    command = [sys.executable, _ENGINE, "--no-limits", *(part for pair in options.items() for part in pair)]
    if bench.settings.smoke:
        command += ["--quick", "--workload", "c"]
    log = bench.settings.out / "engine.log"
    status = finished(command, seconds=bench.seconds, log=log)
    if status != 0:
        raise RuntimeError(f"it ended with {status}: {log.read_text().strip()[-500:]}")
    measured = json.loads(written.read_text())
    divisor = 8 if bench.settings.smoke else 1
    figures = Workloads(measured["model"]["vocab_size"], random.Random(0), Sizes(divisor)).figures
    for name, engines in measured["seconds"].items():
        for seconds in engines.values():
            figure = figures[name]
            bench.row(
                f"workloads, {bench.settings.model.name}",
                {
                    "workload": figure.title,
                    "value": figure.value(median(seconds)),
                    "unit": figure.unit,
                    "seconds": median(seconds),
                },
            )
    failures = [reason for engines in measured["failures"].values() for reason in engines.values()]
    if failures:
        raise RuntimeError("; ".join(failures))
