"""The tests that do something else, or something at all, where there is a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

from gpu.bench import Bench
from gpu.subprocesses import finished

ROOT = Path(__file__).resolve().parents[2]
_ABOUT_GPUS = re.compile(r"cuda\.is_available|triton")
_SHOWN = 40  # lines
_WORKERS = 12
_TEST_SECONDS = 60  # one that fails may compile kernels for many examples before it says so


class TestsFailed(Exception):
    """Some test did not pass."""


def run(bench: Bench) -> None:
    """Run them.

    Raises:
        TestsFailed: not all passed.
        TimeoutError: they did not end.
    """
    bench.unload()
    tests = [str(path.relative_to(ROOT)) for path in gpu_tests(ROOT / "tests")]
    # Warnings are errors in this repository; versions of libraries that are not ours may warn of others
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-W", "default", "--color=no"]
    command += [f"--timeout={_TEST_SECONDS}", *tests]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(_WORKERS, len(os.sched_getaffinity(0))))]
    if bench.settings.smoke:
        command.append("--collect-only")
    log = bench.settings.out / "tests.log"
    try:
        status = finished(command, seconds=bench.seconds, log=log, cwd=ROOT)
    finally:
        lines = log.read_text().splitlines() or ["nothing was said"]
        for line in [line for line in lines if line.startswith(("FAILED", "ERROR"))][-_SHOWN:]:
            bench.note(line)
        bench.note(lines[-1])
    if status != 0:
        raise TestsFailed(f"pytest ended with {status}; see {log}")


def gpu_tests(folder: Path) -> list[Path]:
    """Files of tests that speak of GPUs, but for those that only compile for one."""
    return [
        path
        for path in sorted(folder.rglob("test_*.py"))
        if "compile" not in path.name and _ABOUT_GPUS.search(path.read_text())
    ]
