"""Decoding: milliseconds per step and tokens per second, by rows and context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpu.bench import Bench
from gpu.driving import GREEDY, Driven, Loaded, StepFailed, Steps
from gpu.settings import Cell, Skip
from ramet.grammar.compiler import GrammarCompiler
from ramet.sampling_params import SamplingParams

ENDLESS = replace(GREEDY, max_tokens=1_000_000)  # the engine makes it what there is room for
_MARGIN = 64  # slots that a row may take beyond what it is measured for


def run(bench: Bench) -> None:
    """The large shape."""
    measure(bench, bench.sizes.large)


def run_small(bench: Bench) -> None:
    """The small shape, if it is another one."""
    measure(bench, bench.sizes.small)


def measure(bench: Bench, name: str) -> None:
    """All rows and contexts that fit the pool."""
    loaded = bench.load(name)
    for context in bench.sizes.contexts:
        for rows in bench.sizes.rows:
            try:
                row_of(bench, f"decode, {name}", loaded, rows, context)
            except Skip as reason:
                bench.note(f"{rows} rows of {context:,} tokens left out: {reason}")


def row_of(bench: Bench, table: str, loaded: Loaded, rows: int, context: int, **labels: Cell) -> Steps:
    """Measure one combination and report it."""
    steps = own_contexts(bench, loaded, rows, context)
    # Half of the steps have been taken on average
    attended = rows * (context + bench.sizes.warm_ups + bench.sizes.steps // 2)
    labelled: dict[str, Cell] = {**labels, "rows": rows, "context": context}
    report(bench, table, loaded, steps, labelled, attended=attended, kept=attended)
    return steps


def report(
    bench: Bench,
    table: str,
    loaded: Loaded,
    steps: Steps,
    labels: Mapping[str, Cell],
    *,
    attended: int,
    kept: int,
) -> None:
    """A line of a table of decode steps.

    Args:
        bench: where it goes.
        table: its title.
        loaded: what computed them.
        steps: that were timed.
        labels: the first cells.
        attended: keys that all rows attend to, over all rows.
        kept: of these, how many there are: what rows share counts once.
    """
    shape, limits = loaded.shape, bench.limits
    weight_bytes = 2 if bench.device.type == "cuda" else 4
    num_bytes = shape.decode_bytes(kept, loaded.slot_bytes, weight_bytes)
    least = limits.seconds(num_bytes, shape.operations(steps.rows, attended, steps.rows))
    bench.row(
        table,
        {
            **labels,
            "ms a step": 1e3 * steps.mean,
            "launch ms": 1e3 * steps.part("launch"),  # many times as much where no graph is replayed
            "tokens/s": steps.rows / steps.mean,
            "GB/s": num_bytes / steps.mean / 1e9,
            "least ms": 1e3 * least,
            "share of limit": least / steps.mean,
        },
    )


def own_contexts(bench: Bench, loaded: Loaded, rows: int, context: int) -> Steps:
    """Steps of rows that share nothing.

    Raises:
        Skip: the pool has no room for so many contexts.
    """
    steps = bench.sizes.warm_ups + bench.sizes.steps
    needed, room = rows * (context + steps + _MARGIN), loaded.runner.num_slots
    if needed > room:
        raise Skip(f"the KV pool has {room:,} slots, {needed:,} are needed")
    return decoding(bench, loaded, [loaded.prompt(context) for _ in range(rows)])


def decoding(bench: Bench, loaded: Loaded, prompts: list[list[int]]) -> Steps:
    """Steps that decode after prompts that the cache holds."""
    driven = started(bench, loaded, prompts)
    steps = driven.steps(bench.sizes.steps, len(prompts))
    last = loaded.runner.last_input
    driven.stop()
    if last is None or len(last.input_ids) != len(prompts):
        raise StepFailed(f"a step had {0 if last is None else len(last.input_ids)} rows, not {len(prompts)}")
    return steps


def started(
    bench: Bench,
    loaded: Loaded,
    prompts: list[list[int]],
    *,
    params: SamplingParams = ENDLESS,
    grammars: GrammarCompiler | None = None,
    **scheduler: Any,
) -> Driven:
    """Requests that decode after prompts that the cache holds, so far that all is compiled and recorded."""
    driven = loaded.core(grammars, **scheduler)
    driven.cache_prompts(prompts)
    driven.add(prompts, params)
    driven.steps(bench.sizes.warm_ups, len(prompts))
    return driven
