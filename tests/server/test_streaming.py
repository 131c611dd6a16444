from __future__ import annotations

import asyncio
import json

import pytest
from starlette.requests import Request

from ramet import EngineError, InvalidRequest, RequestAborted
from ramet.server.calls import Calls
from ramet.server.streaming import event_stream
from ramet.types import DEFAULT_OPTIONS

FOREVER = 3600.0
SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": []}


class Browser:
    """The other end of a connection: what it was sent, and when it goes away or stops reading."""

    def __init__(self, *, reads=1000):
        self.gone = asyncio.Event()
        self.status = None
        self.text = ""
        self.ended = False
        self._reads = reads

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if self._reads == 0:
            await asyncio.sleep(FOREVER)
        self._reads -= 1
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.text += message["body"].decode()
            self.ended = not message["more_body"]

    @property
    def events(self):
        return [line.removeprefix("data: ") for line in self.text.split("\n\n") if line]


class Source:
    """Events, and whether whoever made them was told to stop."""

    def __init__(self, *events, then=None):
        self.closed = False
        self._events, self._then = events, then

    async def __call__(self, call):
        try:
            for event in self._events:
                yield event
            if self._then is not None:
                await self._then()
        finally:
            self.closed = True


async def raise_engine_error():
    raise EngineError("a kernel failed")


async def for_ever():
    await asyncio.sleep(FOREVER)


async def stream(browser, source, calls, stall_seconds=FOREVER):
    response = await event_stream(
        Request(SCOPE, browser.receive), calls, DEFAULT_OPTIONS, "id", source,
        stall_seconds=stall_seconds,
    )  # fmt: skip
    await response(SCOPE, browser.receive, browser.send)


def in_loop(test):
    return lambda: asyncio.run(test())


@in_loop
async def test_events_are_framed_and_end_with_done():
    browser, calls = Browser(), Calls(FOREVER)
    await stream(browser, Source(b'{"n": 1}', b'{"n": 2}'), calls)
    assert browser.status == 200
    assert browser.text == 'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'
    assert browser.ended
    assert len(calls) == 0


@in_loop
async def test_what_fails_before_the_first_event_is_no_stream():
    async def refused(call):
        raise InvalidRequest("no")
        yield b""

    browser, calls = Browser(), Calls(FOREVER)
    with pytest.raises(InvalidRequest):
        await stream(browser, refused, calls)
    assert browser.status is None
    assert len(calls) == 0


@in_loop
async def test_what_fails_later_is_an_event():
    browser, calls = Browser(), Calls(FOREVER)
    await stream(browser, Source(b"1", then=raise_engine_error), calls)
    first, error, done = browser.events
    assert (first, done) == ("1", "[DONE]")
    assert json.loads(error)["error"]["message"] == "a kernel failed"
    assert browser.ended
    assert len(calls) == 0


@in_loop
async def test_a_client_that_goes_away_ends_the_source():
    browser, calls, source = Browser(), Calls(FOREVER), Source(b"1", then=for_ever)
    streaming = asyncio.create_task(stream(browser, source, calls))
    while not browser.text:
        await asyncio.sleep(0)
    assert not source.closed
    browser.gone.set()
    await streaming
    assert source.closed
    assert len(calls) == 0


@in_loop
async def test_a_client_that_goes_away_before_the_first_event_ends_the_source():
    browser, calls, source = Browser(), Calls(FOREVER), Source(then=for_ever)
    browser.gone.set()
    with pytest.raises(RequestAborted):
        await stream(browser, source, calls)
    assert source.closed
    assert len(calls) == 0


@in_loop
async def test_an_aborted_stream_says_so():
    browser, calls = Browser(), Calls(FOREVER)
    streaming = asyncio.create_task(stream(browser, Source(b"1", then=for_ever), calls))
    while not browser.text:
        await asyncio.sleep(0)
    calls.abort("id")
    await streaming
    assert json.loads(browser.events[1])["error"]["code"] == "request_aborted"
    assert browser.events[2] == "[DONE]"


@in_loop
async def test_a_stream_that_takes_too_long_says_so():
    browser = Browser()
    await stream(browser, Source(b"1", then=for_ever), Calls(0.01))
    assert json.loads(browser.events[1])["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("reads", [0, 1, 3])
def test_a_reader_that_reads_nothing_any_more_is_given_up(reads):
    async def run():
        browser, calls = Browser(reads=reads), Calls(FOREVER)
        source = Source(*[b"1"] * 10, then=for_ever)
        await stream(browser, source, calls, stall_seconds=0.01)
        assert source.closed
        assert len(calls) == 0
        assert not browser.ended

    asyncio.run(run())
