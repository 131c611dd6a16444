"""Backends that hold their requests until a test lets them go."""

import asyncio
import gc
import threading

import pytest

from ramet.event_loop import background_loop
from ramet.lang.backends.mock import MockBackend


class Gate:
    """Requests wait here. Everything about it happens on the event loop."""

    def __init__(self, opens_at=None):
        self.opens_at = opens_at  # it opens by itself when so many requests are waiting
        self.waiting = 0
        self._open = asyncio.Event()
        self._arrived = threading.Semaphore(0)

    async def pass_through(self):
        self.waiting += 1
        self._arrived.release()
        if self.opens_at is not None and self.waiting >= self.opens_at:
            self._open.set()
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1

    def await_arrivals(self, number):
        """Block until so many requests have arrived."""
        for _ in range(number):
            assert self._arrived.acquire(timeout=30), "a request did not arrive"

    def open(self):
        background_loop().call_soon_threadsafe(self._open.set)


@pytest.fixture(autouse=True)
def no_lost_exceptions(caplog):
    """Event loops and futures report what nobody retrieved to their loggers only."""
    yield
    gc.collect()
    lost = [
        record.getMessage()
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.name in ("asyncio", "concurrent.futures") and record.levelname == "ERROR"
    ]
    assert not lost


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def gated(gate):
    """A backend whose generations wait at the gate."""

    async def reply(prompt, params):
        await gate.pass_through()
        return "late"

    return MockBackend(reply)


@pytest.fixture
def make_gate():
    return Gate
