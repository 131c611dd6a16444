"""One run of a benchmark: requests sent as the load says, and what the answers add up to."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ramet.cli.bench_client import Answer, Client
from ramet.cli.bench_load import Load

PERCENTS = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Run:
    """All answers of a run.

    Attributes:
        seconds: from the first request to the last answer.
        client_share: of one core that the client took; near 1, it was the client that was measured.
    """

    answers: list[Answer]
    seconds: float
    client_share: float


async def run_load(client: Client, model: str, load: Load, on_answer: Callable[[Answer], None]) -> Run:
    """Send the requests; ``on_answer`` is called as each ends."""
    room = asyncio.Semaphore(load.concurrency)
    answers: list[Answer] = []

    async def ask(prompt: str) -> Answer:
        return await client.ask(model, prompt, max_tokens=load.output_tokens, temperature=load.temperature)

    async def take_part(prompt: str) -> None:
        answer = await ask(prompt)
        room.release()
        answers.append(answer)
        on_answer(answer)

    started, cpu_started = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for prompt, moment in zip(load.prompts(), load.moments(), strict=True):
            await asyncio.sleep(max(started + moment - time.monotonic(), 0))
            await room.acquire()
            if load.seconds is not None and time.monotonic() - started > load.seconds:
                break
            tasks.create_task(take_part(prompt))
    seconds = time.monotonic() - started
    run = Run(answers, seconds, (time.process_time() - cpu_started) / max(seconds, 1e-9))
    for answer in [answer for answer in answers if answer.error is None][: load.verify]:
        alone = await ask(answer.prompt)
        if alone.text != answer.text:
            answer.error = "another text than when asked again alone"
    return run


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run showed. Rates are per second, times in seconds; tokens are as the server counts them."""

    requests: int
    completed: int
    errors: dict[str, int]
    seconds: float
    client_share: float
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    time_to_first_token: dict[str, float]
    inter_token: dict[str, float]
    end_to_end: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarize(run: Run) -> Summary:
    completed = [answer for answer in run.answers if answer.error is None]
    prompt_tokens = sum(answer.prompt_tokens for answer in completed)
    output_tokens = sum(answer.completion_tokens for answer in completed)
    seconds = max(run.seconds, 1e-9)
    return Summary(
        requests=len(run.answers),
        completed=len(completed),
        errors=dict(Counter(answer.error for answer in run.answers if answer.error is not None)),
        seconds=run.seconds,
        client_share=run.client_share,
        requests_per_second=len(completed) / seconds,
        output_tokens_per_second=output_tokens / seconds,
        total_tokens_per_second=(prompt_tokens + output_tokens) / seconds,
        prompt_tokens=prompt_tokens,
        cached_tokens=sum(answer.cached_tokens for answer in completed),
        output_tokens=output_tokens,
        time_to_first_token=_percentiles([answer.first for answer in completed if answer.first is not None]),
        inter_token=_percentiles([gap for answer in completed for gap in answer.gaps]),
        end_to_end=_percentiles([answer.total for answer in completed]),
    )


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """The smallest value that so many percent do not exceed; nothing of nothing."""
    ordered = sorted(values)
    return {
        f"p{percent}": ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in PERCENTS if ordered
    }
