"""How long a fresh process takes to the first token: `python benchmarks/cold_start.py [MODEL]`.

Counted from where Python is up, for its own start is not ours. Each run is a process of its own; one more
before them, not counted, fills the page cache and compiles Python's modules, as an installation does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Table

_PROGRAM = """
import json, sys, time
started = time.perf_counter()
import ramet
imported = time.perf_counter()
with ramet.Engine(sys.argv[1] or None) as engine:
    loaded = time.perf_counter()
    next(iter(engine.stream("Hello", max_tokens=4)))
    print(json.dumps([imported - started, loaded - imported, time.perf_counter() - loaded]))
"""
_PARTS = ("import ramet", "load the model", "first token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="", help="by default the bundled one")
    parser.add_argument("--runs", type=int, default=9, choices=range(1, 100), metavar="N")
    arguments = parser.parse_args()
    console = Console()
    _run(arguments.model)
    runs = [_run(arguments.model) for _ in track(range(arguments.runs), "Starting", console=console)]
    table = Table("part", "median", "lowest", "highest", title=f"seconds of {len(runs)} fresh processes")
    for name, seconds in [*zip(_PARTS, zip(*runs, strict=True), strict=True), ("all", [*map(sum, runs)])]:
        table.add_row(name, f"{median(seconds):.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}")
    console.print(table)


def _run(model: str) -> list[float]:
    """Seconds of each part, in a new process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, model], capture_output=True, text=True, env=environment
    )
    if ran.returncode:
        sys.exit(ran.stderr.strip().rpartition("\n")[2] or f"a run ended with {ran.returncode}")
    seconds: list[float] = json.loads(ran.stdout.splitlines()[-1])
    return seconds


if __name__ == "__main__":
    main()
