"""What HTTP and a process of its own cost: `python benchmarks/server_overhead.py [MODEL]`.

The same requests go to an engine in this process and, over HTTP, to a server with the same options; they
take turns, run by run. Prompts are new in every run. Everything shares this machine's cores: what the server
and its client compute, the engine cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import uvloop
from rich.console import Console
from rich.table import Table

import ramet as rm
from ramet.cli.bench_client import Client
from ramet.cli.bench_load import Load
from ramet.cli.bench_run import run_load, summarize
from ramet.config import EngineConfig, ModelOptions
from ramet.engine.build import build_backend
from ramet.engine.local import LocalBackend
from ramet.types import Prompt

Run: TypeAlias = Callable[[Load], Awaitable[float]]  # output tokens per second


async def run_in_process(backend: LocalBackend, load: Load, *, stream: bool) -> float:
    room = asyncio.Semaphore(load.concurrency)
    params = rm.SamplingParams(max_tokens=load.output_tokens, temperature=0, ignore_eos=True)

    async def ask(prompt: Prompt) -> int:
        async with room:
            if not stream:
                (completion,) = await backend.generate(prompt, params)
                return completion.usage.completion_tokens
            return sum([len(chunk.token_ids) async for chunk in backend.stream(prompt, params)])

    started = time.monotonic()
    counts = await asyncio.gather(*(ask(Prompt.of(prompt)) for prompt in load.prompts()))
    return sum(counts) / (time.monotonic() - started)


async def run_over_http(url: str, load: Load, *, stream: bool) -> float:
    client = Client(url, stream=stream)
    summary = summarize(await run_load(client, await client.model(), load, lambda answer: None))
    if summary.errors:
        raise SystemExit(f"requests failed: {summary.errors}")
    return summary.output_tokens_per_second


async def measure(ways: dict[str, Run], loads: list[Load]) -> dict[str, list[float]]:
    """Rates of each way, a run of each in turn."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for index, load in enumerate(loads):
        for name, run in ways.items():
            rate = await run(load)
            if index > 0:  # the first one warms up
                rates[name].append(rate)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", help="GGUF file, Hugging Face folder or hub id (the bundled model)"
    )
    parser.add_argument("--runs", type=int, default=5, help="of each way, besides one to warm up (5)")
    parser.add_argument("--requests", type=int, default=64, help="in a run (64)")
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight (32)")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="(128)")
    parser.add_argument("--output-tokens", type=int, default=64, help="(64)")
    parser.add_argument("--threads", type=int, help="of the kernels (the cores this process has)")
    given = parser.parse_args()
    loads = [
        Load(
            requests=given.requests,
            concurrency=given.concurrency,
            prompt_tokens=given.prompt_tokens,
            output_tokens=given.output_tokens,
            seed=random.getrandbits(32),  # new prompts in each run, the same for both
        )
        for _ in range(given.runs + 1)
    ]
    table = Table("output tokens/s, medians", "in process", "over HTTP", "ratio", "ratios of the runs")
    backend = build_backend(EngineConfig(model=ModelOptions(model=given.model, num_threads=given.threads)))
    with rm.Runtime(given.model, num_threads=given.threads) as server:
        for kind, stream in (("whole answers", False), ("streams", True)):
            ways: dict[str, Run] = {
                "process": partial(run_in_process, backend, stream=stream),
                "http": partial(run_over_http, server.url, stream=stream),
            }
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the server's, too
                rates = runner.run(measure(ways, loads))
            ratios = [http / alone for http, alone in zip(rates["http"], rates["process"], strict=True)]
            table.add_row(
                kind,
                f"{statistics.median(rates['process']):,.0f}",
                f"{statistics.median(rates['http']):,.0f}",
                f"{statistics.median(ratios):.3f}",
                ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios)),
            )
    backend.shutdown()
    Console().print(table)


if __name__ == "__main__":
    main()
