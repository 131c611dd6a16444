"""Whose turn it is, over HTTP: requests wait in the order of their priority, and none is forgotten."""

from __future__ import annotations

import asyncio
from itertools import groupby

import httpx
import pytest
from hosting import PATIENCE, hosted
from parrot import parrot

KEY, CHIEF = ({"X-API-Key": name} for name in ("key", "chief"))
PATHS = {"/generate": "text", "/v1/completions": "prompt"}  # and what each calls a prompt
PRIVILEGED = {
    **{path: {name: "say>"} for path, name in PATHS.items()},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "say>"}]},
    "/score": {"text": "say>", "continuations": ["a"]},
    "/cache_prefix": {"text": "say>"},
    "/concate_and_append_request": {"text": "say", "branches": [">"]},
}


class Queue:
    """A server that runs one request at a time, and one that holds it up until it is let go."""

    def __init__(self, client):
        self._client = client
        self._tasks = []

    async def hold_up(self):
        params = {"max_tokens": 8000, "ignore_eos": True}
        await self._send("/generate", {"text": "~>", "rid": "holder", "sampling_params": params})
        await self._until("running", 1)

    async def join(self, path, name, priority=0):
        """Wait behind those who wait already. The name is one letter: no two prompts begin alike."""
        await self._send(path, {PATHS[path]: f"{name}>", "priority": priority})
        await self._until("waiting", len(self._tasks) - 1)

    async def let_go(self):
        """The responses, as they were asked for."""
        assert (await self._client.post("/abort_request", json={"rid": "holder"})).json() == {"aborted": 1}
        _, *responses = await asyncio.gather(*self._tasks)
        return responses

    async def _send(self, path, body):
        self._tasks.append(asyncio.create_task(self._client.post(path, json=body)))

    async def _until(self, name, number):
        async with asyncio.timeout(PATIENCE):
            while (await self._client.get("/server_info")).json()["stats"][name] != number:
                pass


def order_of(line, path):
    """In what order the engine computes requests, which come as (name, priority); all are answered."""
    steps = []

    async def run(url):
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, headers=CHIEF) as client:
            queue = Queue(client)
            await queue.hold_up()
            for name, priority in line:
                await queue.join(path, name, priority)
            for response in await queue.let_go():
                answer = response.json()
                assert (answer["text"] if path == "/generate" else answer["choices"][0]["text"]) == "done"

    engine = parrot(
        "done",
        num_slots=8192,
        max_running_requests=1,
        on_step=lambda context: steps.append(chr(context[0])),
    )
    with hosted(engine, admin_keys=("chief",)) as host:
        asyncio.run(run(host.url))
    holder, *names = [name for name, _ in groupby(steps)]  # each is computed at a stretch
    assert holder == "~"
    return "".join(names)


@pytest.mark.parametrize("path", PATHS)
def test_the_most_urgent_goes_first_and_among_equals_who_came_first(path):
    line = [("a", 5), ("b", 0), ("c", -3), ("d", 5), ("e", 0), ("f", -3), ("g", 100), ("h", 1)]
    assert order_of(line, path) == "cfbehadg"


@pytest.mark.parametrize("path", PRIVILEGED)
def test_with_admin_keys_only_their_holders_go_before_everybody_else(path):
    with (
        hosted(parrot("done"), api_keys=("key",), admin_keys=("chief",)) as host,
        httpx.Client(base_url=host.url, timeout=PATIENCE) as client,
    ):

        def ask(priority, headers):
            return client.post(path, json={**PRIVILEGED[path], "priority": priority}, headers=headers)

        refused = ask(-1, KEY)
        assert refused.status_code == 403
        assert "a priority below 0 needs an admin key" in refused.json()["error"]["message"]
        answers = [ask(-1, CHIEF), ask(0, KEY), ask(1, KEY), ask(None, KEY)]
        assert {answer.status_code for answer in answers} == {200}


def test_without_admin_keys_everybody_may():
    with (
        hosted(parrot("done"), api_keys=("key",)) as host,
        httpx.Client(base_url=host.url, timeout=PATIENCE, headers=KEY) as client,
    ):
        assert client.post("/generate", json={"text": "say>", "priority": -1}).status_code == 200
