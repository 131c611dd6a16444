"""`/tokenize` and `/detokenize` are calls: they end, are counted and are logged as others."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from asking import asking
from hosting import PATIENCE, echo, hosted, request_bytes, wait_for

ASKED = [("/tokenize", {"text": "say>"}), ("/detokenize", {"tokens": [97, 98]})]


@contextmanager
def stuck(**options):
    """A `Host` whose tokenizer does not come back before the context ends."""
    engine, until = echo(), threading.Event()

    def waiting(work):
        def wait(*args, **options):
            assert until.wait(PATIENCE)
            return work(*args, **options)

        return wait

    tokenizer = engine.tokenizer
    tokenizer.encode_prompt, tokenizer.decode = waiting(tokenizer.encode_prompt), waiting(tokenizer.decode)
    with hosted(engine, **options) as host:
        try:
            yield host
        finally:
            until.set()


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_they_take_no_longer_than_a_request_may(path, body):
    with stuck(request_seconds=0.01) as host:
        answer = httpx.post(f"{host.url}{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_they_are_in_flight_and_can_be_aborted(path, body):
    with stuck() as host, ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.post, f"{host.url}{path}", json=body)
        wait_for(lambda: httpx.get(f"{host.url}/server_info").json()["requests_in_flight"] == 1)
        assert httpx.post(f"{host.url}/abort_request", json={"abort_all": True}).json() == {"aborted": 1}
        assert asked.result(PATIENCE).status_code == 499


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_they_end_when_their_client_goes(path, body):
    with stuck() as host:
        with host.connect() as connection:
            connection.sendall(request_bytes(path, **body))
            wait_for(lambda: len(host.service.calls) == 1, "the call")
        wait_for(lambda: len(host.service.calls) == 0, "its end")


def test_the_log_says_how_many_tokens(caplog):
    with caplog.at_level(logging.INFO, logger="ramet.server.access"), asking(echo()) as ask:
        ask("/tokenize", {"text": ["say", ">"]})
        ask("/detokenize", {"tokens": [[97, 98], [99]]})
    assert [record.facts["tokens"] for record in caplog.records] == [4, 3]
