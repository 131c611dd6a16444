"""What clients and the world do to a server. Afterwards it serves as before, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time

import httpx
import pytest
from hosting import chatterbox, echo, hosted, request_bytes, wait_for
from pieces import random_backend

ASK = {"prompt": "say this>", "max_tokens": 100}
STREAM = {**ASK, "stream": True}

needs_user_timeout = pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system does not drop peers that read nothing"
)


class Steps:
    """Lets a model take as many steps as it is told."""

    def __init__(self):
        self.taken = 0
        self._permits = threading.Semaphore(0)

    def __call__(self, context):
        self._permits.acquire()
        self.taken += 1

    def allow(self, number):
        self._permits.release(number)


def still_serves(host):
    """A request to show it; nothing of others is in flight, and every slot can be free."""
    wait_for(lambda: len(host.service.calls) == 0, "calls to end")
    response = httpx.post(f"{host.url}/v1/completions", json=ASK, timeout=30)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] > 0
    wait_for(lambda: len(host.service.calls) == 0, "calls to end")
    assert httpx.post(f"{host.url}/flush_cache").json() == {"success": True}
    stats = httpx.get(f"{host.url}/server_info").json()["stats"]
    assert stats["free_slots"] == stats["total_slots"]
    assert stats["running"] == stats["waiting"] == 0


def refused(response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["message"]


# ----------------------------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
def test_slots_of_a_client_that_leaves_are_free_two_steps_later(body):
    steps = Steps()
    with hosted(chatterbox(4, on_step=steps)) as host:
        with host.connect() as connection:
            connection.sendall(request_bytes(**body))
            steps.allow(3)
            wait_for(lambda: steps.taken == 3, "three steps")
        wait_for(lambda: len(host.service.calls) == 0, "the server to notice")
        steps.allow(2)
        stats = asyncio.run(host.service.engine.stats())
        assert stats.running == stats.waiting == 0
        assert steps.taken <= 3 + 2
        assert asyncio.run(host.service.engine.flush_cache())
        steps.allow(1000)
        still_serves(host)


def test_a_half_closed_connection_is_a_client_that_left():
    for sent in (request_bytes(**STREAM), request_bytes(**ASK), request_bytes(**ASK)[:-5], b"POST /"):
        with hosted(chatterbox(4)) as host, host.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
            wait_for(lambda: host.num_connections == 0, "the connection to be closed")
            still_serves(host)


def test_a_reader_that_reads_nothing_is_dropped():
    with (
        hosted(chatterbox(4000), send_buffer=8192, stall_seconds=0.2) as host,
        host.connect(receive_buffer=4096) as connection,
    ):
        connection.sendall(request_bytes(**{**STREAM, "max_tokens": 500}))
        wait_for(lambda: len(host.service.calls) == 1, "the request")
        wait_for(lambda: len(host.service.calls) == 0, "the server to give up")
        assert host.service.gate.responses.total() <= 1
        still_serves(host)


@needs_user_timeout
def test_nothing_is_kept_for_a_reader_that_reads_nothing():
    with (
        hosted(chatterbox(4000), send_buffer=8192, stall_seconds=0.2) as host,
        host.connect(receive_buffer=4096) as connection,
    ):
        connection.sendall(request_bytes(**{**ASK, "max_tokens": 500}))
        wait_for(lambda: host.service.gate.responses.total() == 1, "the response")
        wait_for(lambda: host.num_connections == 0, "the connection to be dropped")
        still_serves(host)


# ------------------------------------------------------------------------------------- bodies and limits

MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"prompt": "\xff\xfe"}',
    "no object": b'["say>"]',
    "deep": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"json_schema": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b', "prompt": "say>"}',
    "another type": b'{"prompt": "say>", "max_tokens": "many"}',
    "infinite": b'{"prompt": "say>", "temperature": 1e999}',
    "no number": b'{"prompt": "say>", "temperature": NaN}',
    "a large number": b'{"prompt": "say>", "seed": ' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"prompt": "\\ud800>", "stop": ["\\udfff"]}',
}


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/generate", "/score", "/tokenize"]
)
def test_malformed_bodies_are_refused(path):
    with hosted(echo()) as host:
        for name, body in MALFORMED.items():
            response = httpx.post(
                f"{host.url}{path}", content=body, headers={"content-type": "application/json"}
            )
            assert refused(response)[0] == 400, name
        still_serves(host)


def test_what_is_no_http_is_refused():
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000,
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with hosted(echo()) as host, host.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            assert not answer or answer.split()[1] == b"400", sent[:30]
            still_serves(host)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 4096),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"A: a\r\n" * 1000),
        (
            b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"A: a\r\n" * 1000,
        ),
    ],
    ids=["a header", "headers", "trailers"],
)
def test_headers_without_an_end_are_cut_off(begin, more):
    with hosted(echo()) as host, host.connect() as connection:
        connection.sendall(begin)
        with pytest.raises(OSError):
            connection.sendall(more * 10_000)
        still_serves(host)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_of_50_megabytes_is_refused(chunked):
    piece = b" " * 1_000_000
    with hosted(echo()) as host:
        response = httpx.post(
            f"{host.url}/v1/completions",
            content=(piece for _ in range(50)) if chunked else piece * 50,
            headers={"content-type": "application/json"},
            timeout=30,
        )
        assert refused(response)[0] == 413
        still_serves(host)


def test_a_prompt_over_the_context_is_refused():
    with hosted(echo(context_length=200)) as host:
        response = httpx.post(f"{host.url}/v1/completions", json={"prompt": "a" * 200 + ">"})
        status, message = refused(response)
        assert (status, response.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "200" in message
        still_serves(host)


@pytest.mark.parametrize(
    "constraint",
    [{"regex": "(unclosed"}, {"ebnf": "start: nothing"}, {"json_schema": {"type": "teapot"}}],
    ids=lambda constraint: next(iter(constraint)),
)
def test_an_invalid_grammar_is_refused(constraint):
    with hosted(random_backend()) as host:
        for stream in (False, True):
            body = {**ASK, **constraint, "stream": stream}
            status, message = refused(httpx.post(f"{host.url}/v1/completions", json=body))
            assert status == 400
            assert message
        still_serves(host)


def test_of_10_000_requests_at_once_as_many_are_let_in_as_may_be():
    most, asked = 500, 10_000
    steps = Steps()

    async def ask(app) -> int:
        """A request without a socket, which would limit how many there can be."""
        body = {"type": "http.request", "body": json.dumps({**ASK, "max_tokens": 2}).encode()}
        messages = [body]
        sent = []

        async def receive():
            if messages:
                return messages.pop()
            return await asyncio.Future()

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
        await app({**scope, "query_string": b""}, receive, send)
        if sent[0]["status"] == 429:
            assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
        return sent[0]["status"]

    async def ask_all(app, service):
        asking = [asyncio.create_task(ask(app)) for _ in range(asked)]
        while service.gate.num_turned_away < asked - most:
            await asyncio.sleep(0)
        assert service.gate.num_inside == len(service.calls) == most
        steps.allow(10 * most)
        return await asyncio.gather(*asking)

    with hosted(chatterbox(4, on_step=steps), max_requests=most) as host:
        statuses = asyncio.run_coroutine_threadsafe(
            ask_all(host.app, host.service), host.server._loop
        ).result()
        assert (statuses.count(200), statuses.count(429)) == (most, asked - most)
        still_serves(host)


# ------------------------------------------------------------------------------------------------ clocks


def test_clocks_that_jump_do_not_matter(monkeypatch):
    jumps = 0

    def jumping():
        nonlocal jumps
        jumps += 1
        return 1e9 + (-1) ** jumps * jumps * 86400.0

    monkeypatch.setattr(time, "time", jumping)
    with hosted(echo(), request_seconds=20, body_seconds=20, stall_seconds=20) as host:
        for body in (ASK, STREAM) * 5:
            response = httpx.post(f"{host.url}/v1/completions", json=body)
            assert response.status_code == 200
            assert "error" not in response.text
        still_serves(host)
    assert jumps > 0


# ------------------------------------------------------------------------------------------------- leaks


async def one_of_each(address, rng_number):
    """One request of a kind that depends on the number; some clients do not stay to the end."""
    bodies = [
        request_bytes(**STREAM),
        request_bytes(**ASK),
        request_bytes("/v1/chat/completions", messages=[{"role": "user", "content": "a>b"}], max_tokens=9),
        request_bytes("/generate", text="say this>", sampling_params={"max_new_tokens": 5}),
        request_bytes("/score", prompt="say>", continuations=["this", "that"]),
        request_bytes("/tokenize", text="say>"),
        request_bytes(prompt=[1, 2, 100_000]),
        request_bytes(**{**ASK, "regex": "(unclosed"}),
        request_bytes("/nowhere"),
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HELLO\r\n\r\n",
    ]
    reader, writer = await asyncio.open_connection(*address)
    kind, leaves = rng_number % len(bodies), rng_number // len(bodies) % 3
    writer.write(bodies[kind].replace(b"Host: x", b"Host: x\r\nConnection: close"))
    try:
        if leaves == 0:
            await reader.read(10)  # the beginning of an answer
        elif leaves == 1:
            await reader.read()
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what /proc/self/fd lists")
@pytest.mark.parametrize("number", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_nothing_leaks(number):
    def held(host):
        return {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "tasks": host.in_loop(lambda: len(asyncio.all_tasks())),
        }

    async def ask_all(address):
        room = asyncio.Semaphore(32)

        async def ask(index):
            async with room:
                await one_of_each(address, index)

        await asyncio.gather(*(ask(index) for index in range(number)))

    with hosted(echo()) as host:
        still_serves(host)
        asyncio.run(ask_all(host.address))  # what is made once, is made now
        wait_for(lambda: host.num_connections == 0, "connections to be closed")
        before = held(host)
        before["threads"] += 8  # pools begin their threads as they are needed; a leak would be of hundreds
        asyncio.run(ask_all(host.address))
        wait_for(lambda: host.num_connections == 0, "connections to be closed")
        still_serves(host)
        wait_for(lambda: host.num_connections == 0, "connections to be closed")
        wait_for(
            lambda: all(now <= before[kind] for kind, now in held(host).items()),
            f"{held(host)} to become {before}",
        )
