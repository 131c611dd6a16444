"""Bodies, heads and ids of people who mean harm: what it costs the server to say no."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import httpx
import pytest
from parrot import parrot
from pydantic import ValidationError
from serving import in_process

from ramet.config import ServerConfig
from ramet.errors import InvalidRequest
from ramet.server.calls import Calls
from ramet.server.gate import Gate, GateMiddleware
from ramet.server.native.bodies import CachePrefixBody, GenerateBody
from ramet.server.openai.schemas import ChatBody, CompletionBody
from ramet.types import RequestOptions

MESSAGES = [{"role": "user", "content": "say>"}]
MANY = 1000
UNKNOWN = {f"unknown{index}": 1 for index in range(MANY)}


@contextmanager
def shutting_down(engine):
    try:
        yield engine
    finally:
        engine.shutdown()


def in_loop(test):
    return lambda: asyncio.run(test())


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatBody, {"messages": MESSAGES, **UNKNOWN}),
        (ChatBody, {"messages": [1] * MANY}),
        (ChatBody, {"messages": MESSAGES, "guided_choice": [1] * MANY}),
        (ChatBody, {"messages": MESSAGES, "structured_outputs": {"choice": [1] * MANY}}),
        (ChatBody, {"messages": MESSAGES, "stream": True, "stream_options": UNKNOWN}),
        (ChatBody, {"messages": MESSAGES, "logit_bias": {str(index): "a" for index in range(2 * MANY)}}),
        (CompletionBody, {"prompt": ["a", *[1] * MANY]}),
        (GenerateBody, {"text": "a", **UNKNOWN}),
        (CachePrefixBody, {"text": "a", **UNKNOWN}),
    ],
)
def test_the_first_wrong_thing_in_a_body_is_enough(kind, body):
    with pytest.raises(ValidationError) as found:
        kind.model_validate(body)
    assert found.value.error_count() == 1


@in_loop
async def test_an_unknown_field_is_still_named():
    with shutting_down(parrot("hello")) as engine:
        async with in_process(engine) as client:
            for path, body in (
                ("/v1/chat/completions", {"messages": MESSAGES}),
                ("/generate", {"text": "a"}),
            ):
                refused = await client.post(path, json={**body, "first": 1, "second": 1})
                assert refused.status_code == 400
                assert refused.json()["error"]["param"] == "first"


@pytest.mark.parametrize(("method", "path"), [("OPTIONS", "/v1/completions"), ("OPTIONS", "/docs")])
def test_no_method_comes_in_without_a_key(method, path):
    config = ServerConfig(api_keys=("sesame",))

    async def app(scope, receive, send):
        raise AssertionError("it came in")

    async def ask():
        transport = httpx.ASGITransport(GateMiddleware(app, Gate(config), config))
        async with httpx.AsyncClient(transport=transport, base_url="http://ramet") as client:
            return await client.request(method, path)

    assert asyncio.run(ask()).status_code == 401


@in_loop
async def test_nobody_holds_health_up_with_a_body():
    config = ServerConfig()
    gate = Gate(config)
    statuses = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        raise AssertionError("nobody should read")

    async def send(message):
        statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/health", "headers": [(b"content-length", b"9999")]}
    await GateMiddleware(app, gate, config)(scope, receive, send)
    assert statuses == [200]


@in_loop
async def test_a_key_that_is_no_ascii_is_a_key():
    config = ServerConfig(api_keys=("schlüssel",))

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(GateMiddleware(app, Gate(config), config))
    async with httpx.AsyncClient(transport=transport, base_url="http://ramet") as client:
        for key, status in (("schlüssel", 200), ("schlussel", 401)):
            given = {"Authorization": b"Bearer " + key.encode()}
            assert (await client.get("/v1/models", headers=given)).status_code == status


@in_loop
async def test_nobody_can_take_the_ids_of_others():
    calls = Calls(60.0)
    mine, theirs = RequestOptions(client_id="me"), RequestOptions(client_id="them")
    with calls.open(mine, "a") as call, calls.open(theirs, "a"):
        with pytest.raises(InvalidRequest, match="in use"), calls.open(mine, "a"):
            pass
        assert calls.of("me") == [call]
        assert not calls.abort("a"), "nobody's without a key"
        assert calls.abort("a", "them")
        assert await call.run(asyncio.sleep(0, "goes on")) == "goes on"


@in_loop
async def test_many_messages_are_laid_out_beside_the_event_loop():
    with shutting_down(parrot("hello")) as engine:
        tokenizer = engine.tokenizer
        threads = []
        encode_prompt = tokenizer.encode_prompt

        def noted(prompt):
            threads.append(threading.current_thread())
            return encode_prompt(prompt)

        tokenizer.encode_prompt = noted
        async with in_process(engine) as client:
            for count, is_here in ((1, True), (2000, False)):
                threads.clear()
                body = {"messages": MESSAGES * count, "max_tokens": 1}
                await client.post("/v1/chat/completions", json=body)
                assert (threads[0] is threading.main_thread()) == is_here


def test_isolated_clients_may_use_the_longest_salt():
    body = {"prompt": "say>", "max_tokens": 1, "cache_salt": "s" * 256}

    async def ask(engine):
        async with in_process(engine, api_keys=("k",), isolate_clients=True) as client:
            return await client.post("/v1/completions", json=body, headers={"Authorization": "Bearer k"})

    with shutting_down(parrot("hello")) as engine:
        answer = asyncio.run(ask(engine))
    assert answer.status_code == 200, answer.text
