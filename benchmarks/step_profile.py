"""Where the time of a step goes: `python benchmarks/step_profile.py [MODEL]`.

Drives an engine core without threads or text, so that each part can be timed on its own: scheduling, laying
out arrays, the phases of the native decoder, logits, sampling, bookkeeping. While they are measured, phases
inside the decoder end with a wait for all threads, which costs a little. Where threads take many rows
alone, phases are those of the first thread, and its wait at the end counts for the last of them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ramet.config import ModelOptions, SchedulerConfig
from ramet.engine.core import EngineCore
from ramet.engine.inputs import build_model_input, build_sampling
from ramet.engine.messages import AddRequest
from ramet.model_io import execute
from ramet.runner.build import build_runner
from ramet.runner.native import NativeModelRunner
from ramet.sampling_params import SamplingParams
from ramet.store import resolve_model

LARGE = ("product", "attention", "logits")  # what a step is for


@dataclass(frozen=True)
class Case:
    """Requests that run together."""

    name: str
    num_requests: int
    prompt_tokens: int
    max_tokens: int


CASES = (
    Case("1 request, 32-token prompt: decode", 1, 32, 256),
    Case("32 requests, 32-token prompts: decode", 32, 32, 128),
    Case("2 prompts of 1,024 tokens: prefill", 2, 1024, 1),
)


def profile(runner: NativeModelRunner, case: Case) -> dict[str, list[float]]:
    """Seconds of each part, one entry per step; the prefill before a decode is left out."""
    core = EngineCore(runner, SchedulerConfig(), enable_prefix_cache=False)
    generator = random.Random()
    for index in range(case.num_requests):
        prompt = [generator.randrange(100, min(40_000, runner.vocab_size)) for _ in range(case.prompt_tokens)]
        params = SamplingParams(max_tokens=case.max_tokens, temperature=0, ignore_eos=True)
        core.handle(AddRequest(request_id=f"{index}.0", token_ids=prompt, params=params, seed=index))
    parts: dict[str, list[float]] = defaultdict(list)
    while True:
        started = time.perf_counter()
        batch = core.scheduler.schedule()
        if batch is None:
            return parts
        scheduled = time.perf_counter()
        model_input, sampling = build_model_input(batch), build_sampling(batch, runner.vocab_size)
        laid_out = time.perf_counter()
        output = execute(runner, model_input, sampling)
        executed = time.perf_counter()
        core.scheduler.launched(batch)
        core.scheduler.update(batch, output)
        updated = time.perf_counter()
        phases = runner.take_profile()
        if case.max_tokens > 1 and batch.num_rows != case.num_requests:
            continue
        parts["schedule"].append(scheduled - started)
        parts["lay out arrays"].append(laid_out - scheduled)
        for phase, seconds in phases.items():
            parts[phase].append(seconds)
        parts["dispatch"].append(executed - laid_out - sum(phases.values()))
        parts["bookkeeping"].append(updated - executed)


def show(case: Case, parts: dict[str, list[float]], console: Console) -> None:
    medians = {name: statistics.median(seconds) for name, seconds in parts.items()}
    total = sum(medians.values())
    table = Table(title=f"{case.name}\n{1e3 * total:.2f} ms a step", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in medians.items():
        table.add_row(name, f"{1e3 * seconds:.3f}", f"{seconds / total:.1%}")
    large = sum(seconds for name, seconds in medians.items() if any(word in name for word in LARGE))
    table.add_section()
    table.add_row("large products and attention", f"{1e3 * large:.3f}", f"{large / total:.1%}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="GGUF file, folder or hub id (the bundled model)")
    path = resolve_model(parser.parse_args().model)
    runner = build_runner(path, ModelOptions(device="cpu", kernels="native"))
    assert isinstance(runner, NativeModelRunner), type(runner)
    console = Console()
    for case in CASES:
        profile(runner, case)  # warm-up
        runner.set_profile(True)
        parts = profile(runner, case)
        runner.set_profile(False)
        show(case, parts, console)


if __name__ == "__main__":
    main()
