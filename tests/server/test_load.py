"""Many clients at once: every stream is whole, in order, and its own."""

from __future__ import annotations

import asyncio

from hosting import echo, hosted, wait_for

from ramet.cli.bench_client import Client

NUM_CLIENTS = 200
REQUESTS_OF_EACH = 2


def test_200_clients_get_what_is_theirs():
    async def client(number, ask):
        for turn in range(REQUESTS_OF_EACH):
            told = f"client {number:03} says in turn {turn}: 0123456789"
            answer = await ask("parrot", told + ">", max_tokens=len(told), temperature=0.0)
            assert answer.error is None
            assert answer.text == told
            assert answer.completion_tokens == len(told)

    async def run(url):
        ask = Client(url).ask
        async with asyncio.TaskGroup() as clients:
            for number in range(NUM_CLIENTS):
                clients.create_task(client(number, ask))

    with hosted(echo(max_running_requests=100)) as host:
        asyncio.run(run(host.url))
        served = {("/v1/completions", 200): NUM_CLIENTS * REQUESTS_OF_EACH}
        wait_for(lambda: host.service.gate.responses == served)
        assert len(host.service.calls) == 0
