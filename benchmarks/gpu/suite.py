"""The tests that do something else, or something at all, where there is a GPU."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from gpu.bench import Bench
from gpu.subprocesses import finished

ROOT = Path(__file__).resolve().parents[2]
_ABOUT_GPUS = re.compile("cuda|triton")
_SHOWN = 40  # lines
_WORKERS = 6


class TestsFailed(Exception):
    """Some test did not pass."""


def run(bench: Bench) -> None:
    """Run them.

    Raises:
        TestsFailed: not all passed.
    """
    bench.unload()
    tests = [str(path.relative_to(ROOT)) for path in gpu_tests(ROOT / "tests")]
    # Warnings are errors in this repository; versions of libraries that are not ours may warn of others
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "--color=no", *tests]
    if bench.settings.smoke:
        command.append("--collect-only")
    parallel = ["-n", str(_WORKERS)] if importlib.util.find_spec("xdist") else []
    status, said = _pytest(bench, [*command, *parallel])
    if status != 0 and parallel:
        bench.note("run once more, one after the other: those that failed beside others")
        status, again = _pytest(bench, [*command, "--last-failed"])
        said += again
    log = bench.settings.out / "tests.log"
    log.write_text(said)
    if status != 0:
        for line in [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))][-_SHOWN:]:
            bench.note(line)
        raise TestsFailed(f"pytest ended with {status}; see {log}")


def _pytest(bench: Bench, command: list[str]) -> tuple[int, str]:
    status, said = finished(command, seconds=bench.seconds, cwd=ROOT)
    bench.row("tests", {"status": status, "result": said.strip().rpartition("\n")[2]})
    return status, said


def gpu_tests(folder: Path) -> list[Path]:
    """Files of tests that speak of GPUs, but for those that only compile for one."""
    return [
        path
        for path in sorted(folder.rglob("test_*.py"))
        if "compile" not in path.name and _ABOUT_GPUS.search(path.read_text())
    ]
