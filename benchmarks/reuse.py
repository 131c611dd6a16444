"""Counts the work that sharing saves, on a real model: `python benchmarks/reuse.py [MODEL]`.

Counts do not depend on the speed of the machine; each line names the least work there is.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

import ramet as rm


@dataclass(frozen=True)
class Work:
    """What a piece of work cost."""

    computed: int
    rows: int
    steps: int
    seconds: float


def measure(engine: rm.Engine, work: Callable[[], object]) -> Work:
    """Run something and count the engine's work for it."""
    before, started = engine.stats(), time.perf_counter()
    work()
    after, seconds = engine.stats(), time.perf_counter() - started

    def difference(name: str) -> int:
        value: int = getattr(after, name) - getattr(before, name)
        return value

    return Work(difference("computed_tokens"), difference("rows"), difference("steps"), seconds)


def main() -> None:
    rng = random.Random(0)
    model = sys.argv[1] if len(sys.argv) > 1 else None

    def ids(count: int) -> list[int]:
        return [rng.randrange(100, 40_000) for _ in range(count)]

    table = Table("work", "prompt tokens computed", "rows", "steps", "seconds", "at best")

    def show(name: str, work: Work, best: str) -> None:
        table.add_row(
            name, f"{work.computed:,}", f"{work.rows:,}", f"{work.steps:,}", f"{work.seconds:.1f}", best
        )

    with rm.Engine(model) as engine:
        prefix = ids(1000)
        prompts = [prefix + ids(50) for _ in range(64)]

        def submit() -> object:
            return engine.generate(prompts, max_tokens=1, temperature=0)

        show("64 prompts, one 1,000-token prefix + 50 own", measure(engine, submit), "4,200 computed")
        show("the same again", measure(engine, submit), "64 computed")

        prompt, choices = ids(200), [f" choice number {index}" for index in range(8)]
        tokens = engine.score(ids(1), choices)
        least = 200 + sum(len(score.token_ids) - 1 for score in tokens)
        show(
            "select among 8 choices after 200 tokens",
            measure(engine, lambda: engine.score(prompt, choices)),
            f"at most {least} computed, 1 step",
        )

        @rm.function
        def branches(s: rm.ProgramState) -> None:
            s += "The story so far: " + "once upon a time there was a small engine. " * 50
            forks = s.fork(16)
            for index, branch in enumerate(forks):
                branch += f"\nEnding {index}:"
                branch += rm.gen("ending", max_tokens=32, ignore_eos=True)
            forks.join()

        show(
            "fork of 16 branches x 32 tokens after ~500",
            measure(engine, lambda: branches.run(backend=engine, temperature=0.8).sync()),
            "32 steps of 16 rows",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
