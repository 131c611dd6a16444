"""The benchmark from beginning to end: measure, run, print."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from engine import report
from engine.arguments import parse
from engine.engine_process import EngineProcess, EngineSpec
from engine.limits import Limits, limits_spec, measure_limits
from engine.measure import Measurement
from engine.model_facts import ModelFacts, read_model_facts
from engine.specs import DEFAULT_LLAMA_FORMATS, OPENVINO_FORMATS, peer_specs, ramet_spec
from engine.workloads import SESSIONS, Sizes, Workloads
from ramet.store.resolve import resolve_model


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    workdir: Path = given.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    sessions = [name for letter in given.workload for name in SESSIONS[letter]]

    cores = sorted(os.sched_getaffinity(0))[: given.threads]
    if len(cores) < given.threads:
        raise SystemExit(f"--threads {given.threads}, but this process may use only {len(cores)} cores")
    os.sched_setaffinity(0, cores)  # engines inherit it

    model = resolve_model(given.model)
    facts = read_model_facts(model)
    workloads = Workloads(facts.vocab_size, random.Random(given.seed), Sizes(8 if given.quick else 1))
    limits, machine = None, None
    with ExitStack() as stack:
        if given.limits:
            spec = limits_spec(given.threads, facts.hidden_size, facts.intermediate_size)
            machine = stack.enter_context(EngineProcess(spec, _log(workdir, spec), timeout=given.timeout))
            say("measuring what this machine can do")
            limits = measure_limits(machine)
            console.print(report.limit_table(limits, given.threads))
        engines = [
            stack.enter_context(
                EngineProcess(spec, _log(workdir, spec), timeout=given.timeout, settle=given.settle)
            )
            for spec in _specs(given, model, cores)
        ]
        measurement = Measurement(engines, workloads, say, machine)
        try:
            for name in sessions:
                measurement.run(name, runs=given.runs, warm_ups=given.warm_ups)
        except KeyboardInterrupt:
            say("interrupted: what is there so far follows")
    names = [engine.name for engine in engines]
    _print_report(console, measurement.measured, workloads, facts, names)
    if given.json:
        given.json.write_text(json.dumps(_record(given, measurement.measured, limits, facts), indent=2))


def say(line: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def _specs(given: argparse.Namespace, model: Path, cores: Sequence[int]) -> list[EngineSpec]:
    specs = [] if given.no_ramet else [ramet_spec(model, given.threads, given.workdir, given.device)]
    for kind, python in zip(given.peer, given.python, strict=True):
        specs += peer_specs(
            kind,
            python,
            model,
            threads=given.threads,
            cores=cores,
            workdir=given.workdir,
            llama_formats=given.peer_format or DEFAULT_LLAMA_FORMATS,
            openvino_formats=given.openvino_format or OPENVINO_FORMATS,
            device=given.device,
        )
    return specs


def _log(workdir: Path, spec: EngineSpec) -> Path:
    return workdir / f"{spec.name.lower().replace(' ', '-')}.log"


def _print_report(
    console: Console,
    measured: report.Measured,
    workloads: Workloads,
    facts: ModelFacts,
    names: Sequence[str],
) -> None:
    console.print(report.figure_table(measured, workloads.figures, names))
    found = report.shares(measured, workloads.figures, facts)
    if found:
        console.print(report.share_table(found, names))
    for line in report.notes(measured, workloads.figures, names):
        console.print(line, highlight=False)


def _record(
    given: argparse.Namespace, measured: report.Measured, limits: Limits | None, facts: ModelFacts
) -> dict[str, object]:
    return {
        "model": asdict(facts),
        "threads": given.threads,
        "device": given.device,
        "quick": given.quick,
        "limits_before": limits,
        **asdict(measured),
    }
