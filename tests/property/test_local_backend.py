"""Many callers at once who change their minds: whatever is cancelled or fails, the others get their text.

Invariant: every call ends, with its own text or its own error, and no slot, request or waiting caller is
left behind.
"""

from __future__ import annotations

import asyncio
import logging
import random

import pytest
from parrot import parrot

from ramet.errors import EngineError, InvalidRequest, PromptTooLong
from ramet.event_loop import run_sync
from ramet.sampling_params import SamplingParams
from ramet.types import Prompt

REPLY = "naïve 🙂 words, words, words and a STOP at the end"


async def call(backend, rng):
    """One caller; asserts that it gets what it asked for."""
    prompt = Prompt.of("x" * rng.randrange(40) + rng.choice(["", "!"]) + str(rng.randrange(3)) + ">")
    stop, text = rng.choice([((), REPLY), ((" wo",), "naïve 🙂"), (("STOP",), REPLY[: REPLY.index("STOP")])])
    params = SamplingParams(max_tokens=100, stop=stop, n=rng.choice([1, 1, 3]))
    kind = rng.randrange(5)
    if kind == 0:
        texts = dict.fromkeys(range(params.n), "")
        async for chunk in backend.stream(prompt, params):
            texts[chunk.index] += chunk.text
            if chunk.completion is not None:
                assert chunk.completion.text == texts[chunk.index]
        assert list(texts.values()) == [text] * params.n
    elif kind == 1:
        scores = await backend.score(prompt, ["one", "two words", "o"])
        assert [len(score.logprobs) for score in scores] == [3, 9, 1]
    elif kind == 2:
        with pytest.raises((InvalidRequest, PromptTooLong)):
            await backend.generate(Prompt.of("y" * 1000), params)
    else:
        completions = await backend.generate(prompt, params)
        assert [completion.text for completion in completions] == [text] * params.n


async def fickle_call(backend, rng):
    """A caller who may cancel at any moment, and whose steps may fail."""
    task = asyncio.ensure_future(call(backend, rng))
    if rng.random() < 0.4:
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"
    except EngineError:
        return "failed"
    return "served"


@pytest.mark.parametrize("failures", [0.0, 0.0005])
@pytest.mark.parametrize(
    "options", [{}, {"max_batch_tokens": 5}, {"policy": "fcfs", "max_running_requests": 2}]
)
def test_callers_who_cancel_and_steps_that_fail_leave_nothing_behind(options, failures):
    rng, fate = random.Random(5), random.Random(6)

    def on_step(context):
        if fate.random() < failures:
            raise RuntimeError("boom")

    backend = parrot(REPLY, num_slots=400, on_step=on_step, **options)

    async def crowd():
        outcomes = []
        for _ in range(3):
            calls = [fickle_call(backend, random.Random(rng.random())) for _ in range(25)]
            outcomes += await asyncio.gather(*calls)
        while (await backend.stats()).running or (await backend.stats()).waiting:
            await asyncio.sleep(0)
        assert await backend.flush_cache()
        return outcomes

    logging.disable()  # the engine logs each failing step
    try:
        outcomes = run_sync(crowd())
    finally:
        logging.disable(logging.NOTSET)
        backend.shutdown()
    assert outcomes.count("served") > 10
    assert ("failed" in outcomes) == (failures > 0)
    assert not backend._receivers
    assert not backend._replies
