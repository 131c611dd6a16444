"""The benchmark from beginning to end: processes, time limits, tables, the exit status."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from gpu.child import measure
from gpu.record import Outcome, Record, show
from gpu.sections import NAMES, SECTIONS
from gpu.settings import Settings

_SECONDS = {section.name: section.seconds for section in SECTIONS}
_START_SECONDS = 120.0  # until a process has begun its first section: nobody has imported torch before
_LEAST_SECONDS = 5.0  # that a section is begun for
_DESCRIPTION = (
    "Measure Ramet on a GPU, each figure beside what the device allows. Run as `python benchmarks/gpu`."
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for.

    Attributes:
        seconds: for the whole run.
    """

    names: tuple[str, ...]
    out: Path
    model: Path | None
    smoke: bool
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if a section failed or was not reached, else 0."""
    wanted = _parse(arguments)
    wanted.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 150)
    record = run(wanted, console)
    failed = record.failed()
    console.print(f"wrote {wanted.out / 'gpu.json'}", highlight=False, markup=False)
    if failed:
        console.print(f"FAILED: {', '.join(failed)}", highlight=False, markup=False)
    return int(bool(failed))


def run(wanted: Wanted, console: Console) -> Record:
    """All sections, in as many processes as it takes; the record is written after each section."""
    record, deadline = Record(), time.monotonic() + wanted.seconds
    with tempfile.TemporaryDirectory(prefix="ramet-gpu-") as folder:
        left = [name for name in NAMES if name in wanted.names]
        while left:
            settings = Settings(
                wanted.smoke, Path(folder), wanted.out.absolute(), wanted.model, deadline, record.limits
            )
            _run_process(left, settings, record, wanted, console)
            if not set(left) & record.outcomes.keys():  # not even the first one has begun
                record.take(("begin", left[0]))
                record.end("failed", "its process ended before it began", 0.0)
                _finish(left[0], record, wanted, console)
            left = [name for name in left if name not in record.outcomes]
            if deadline - time.monotonic() < _LEAST_SECONDS:
                break
    for name in left:
        record.outcomes[name] = Outcome("no time", f"all {wanted.seconds:.0f} s were used")
        _finish(name, record, wanted, console)
    return record


def _run_process(
    names: Sequence[str], settings: Settings, record: Record, wanted: Wanted, console: Console
) -> None:
    """One process, until it has done all sections, one has failed, or the time is up."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(names, settings, sender), name="measuring")
    process.start()
    sender.close()
    started = time.monotonic()
    limit = min(_START_SECONDS, settings.deadline - started)
    while True:
        try:
            if not receiver.poll(max(started + limit - time.monotonic(), 0)):
                reason = f"it took longer than {limit:.0f} s"
                break
            event = receiver.recv()
        except EOFError:
            process.join()
            reason = f"its process ended with {process.exitcode}"
            break
        record.take(event)
        if event[0] == "begin":
            started = time.monotonic()
            limit = min(_SECONDS[event[1]], settings.deadline - started)
        elif event[0] == "end":
            _finish(list(record.outcomes)[-1], record, wanted, console)
            started, limit = time.monotonic(), _START_SECONDS
    process.kill()
    process.join()
    receiver.close()
    if record.running is not None:
        name = record.running
        record.end("failed", reason, time.monotonic() - started)
        _finish(name, record, wanted, console)


def _finish(name: str, record: Record, wanted: Wanted, console: Console) -> None:
    show(name, record.outcomes[name], console)
    sys.stdout.flush()
    record.write(wanted.out / "gpu.json")


def _parse(arguments: Sequence[str] | None) -> Wanted:
    listed = "\n".join(f"  {section.name:15}{section.about}" for section in SECTIONS)
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu",
        description=_DESCRIPTION,
        epilog=f"sections, in this order:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_names, help="sections, such as decode,prefill (all)")
    add("--without", type=_names, default=(), help="sections to leave out")
    add("--out", type=Path, default=Path("build/gpu"), help="folder for gpu.json (build/gpu)")
    add("--model", type=Path, help="GGUF file or folder with real weights")
    add("--smoke", action="store_true", help="a tiny model on the CPU: shows that it works, not how fast")
    add("--seconds", type=float, default=460.0, help="for all of it; sections left then are not run (460)")
    given = parser.parse_args(arguments)
    if given.model is not None and not given.model.exists():
        parser.error(f"there is no model at {given.model}")
    names = tuple(name for name in given.only or NAMES if name not in given.without)
    if "limits" not in names:
        names = ("limits", *names)  # nothing means much without them
    return Wanted(names, given.out, given.model, given.smoke, given.seconds)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; there are {', '.join(NAMES)}")
    return names
