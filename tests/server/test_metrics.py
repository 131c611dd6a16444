from __future__ import annotations

import asyncio
import threading

import pytest
from parrot import parrot
from pieces import random_backend
from prometheus_client.parser import text_string_to_metric_families
from serving import in_process

from ramet import EngineDead, Prompt, SamplingParams
from ramet.config import ServerConfig
from ramet.server.gate import Gate
from ramet.server.metrics import Metrics

REPLY = "hello you"


async def figures(client) -> dict[str, float]:
    """What `/metrics` says, by name and labels."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def ask(client, *, stream=False, **body):
    response = await client.post(
        "/v1/completions", json={"prompt": "say>", "max_tokens": 50, "stream": stream, **body}
    )
    assert response.status_code == 200, response.text
    return response


def measured(engine, work, **options) -> dict[str, float]:
    """What `/metrics` says after some work of a client."""

    async def run():
        async with in_process(engine, **options) as client:
            await work(client)
            return await figures(client)

    try:
        return asyncio.run(run())
    finally:
        engine.shutdown()


def test_the_engines_counters():
    async def work(client):
        for _ in range(3):
            await ask(client)

    seen = measured(parrot(REPLY, num_slots=512), work)
    assert seen["ramet_engine_up"] == 1
    assert seen["ramet_requests_total"] == 3
    assert seen["ramet_prompt_tokens_total"] == 3 * len("say>")
    assert seen["ramet_cached_tokens_total"] + seen["ramet_computed_tokens_total"] >= 3 * len("say>")
    assert seen["ramet_generated_tokens_total"] == 3 * (len(REPLY) + 1)
    assert seen["ramet_kv_slots_total"] == 512
    assert 0 < seen["ramet_kv_slots_used"] < 100
    assert seen["ramet_requests_running"] == seen["ramet_requests_waiting"] == 0
    assert seen["ramet_steps_total"] > 0
    for name in ("preemptions_total", "evicted_tokens_total", "jump_forward_tokens_total", "kv_slots_leased"):
        assert f"ramet_{name}" in seen


def test_the_times_of_streams():
    async def work(client):
        await ask(client, stream=True)
        await ask(client, stream=True, n=2)

    seen = measured(parrot(REPLY), work)
    assert seen["ramet_time_to_first_token_seconds_count"] == 3
    assert seen["ramet_request_seconds_count"] == 2
    assert seen["ramet_request_seconds_sum"] >= seen["ramet_time_to_first_token_seconds_sum"] / 2 > 0
    assert seen["ramet_request_output_tokens_count"] == 3
    assert seen["ramet_request_output_tokens_sum"] == 3 * (len(REPLY) + 1)
    assert seen["ramet_request_prompt_tokens_sum"] == 2 * len("say>")


def test_the_time_between_tokens():
    step = threading.Semaphore(1)

    async def run():
        engine = parrot(REPLY, on_step=lambda context: step.acquire())
        metrics = Metrics(engine, Gate(ServerConfig()))
        try:
            async for _ in metrics.measured(engine).stream(Prompt.of("say>"), SamplingParams()):
                step.release()  # not before: what comes meanwhile would be in the same chunk
            return (await metrics.exposition()).decode()
        finally:
            engine.shutdown()

    exposition = asyncio.run(run())
    assert f"ramet_inter_token_seconds_count {len(REPLY)}.0" in exposition


def test_the_times_of_answers_that_are_not_streamed():
    seen = measured(parrot(REPLY), ask)
    assert seen["ramet_request_seconds_count"] == 1
    assert seen["ramet_time_to_first_token_seconds_count"] == 0


def test_constraints():
    async def work(client):
        for _ in range(2):
            await ask(client, regex="(true|false) or (true|false)")

    seen = measured(random_backend(), work)
    assert seen["ramet_grammars_compiled_total"] == 1
    assert seen["ramet_grammar_compile_seconds_total"] > 0
    assert seen["ramet_jump_forward_tokens_total"] > 0


def test_responses_by_route_and_status():
    async def work(client):
        await ask(client)
        await client.post("/v1/completions", content=b"{")
        await client.get("/v1/completions")
        for name in range(3):
            await client.get(f"/no/such/{name}")

    seen = measured(parrot(REPLY), work)
    responses = {name: value for name, value in seen.items() if name.startswith("ramet_http_responses_total")}
    assert responses == {
        "ramet_http_responses_total route=/v1/completions status=200": 1,
        "ramet_http_responses_total route=/v1/completions status=400": 1,
        "ramet_http_responses_total route=/v1/completions status=405": 1,
        "ramet_http_responses_total route=none status=404": 3,
    }


def test_a_dead_engine_leaves_what_the_server_knows():
    engine = parrot(REPLY)

    async def work(client):
        await ask(client)
        engine.shutdown()
        with pytest.raises(EngineDead):
            await engine.stats()

    seen = measured(engine, work)
    assert seen["ramet_engine_up"] == 0
    assert seen["ramet_request_seconds_count"] == 1
    assert "ramet_steps_total" not in seen
