from __future__ import annotations

import asyncio

import pytest

from ramet import InvalidRequest, RequestAborted
from ramet.errors import RequestTimeout
from ramet.server.calls import Calls, unless_disconnected
from ramet.types import DEFAULT_OPTIONS

FOREVER = 3600.0


class Work:
    """Something that takes for ever, and knows whether it was ended."""

    def __init__(self):
        self.began, self.ended = asyncio.Event(), False

    async def __call__(self):
        try:
            self.began.set()
            await asyncio.sleep(FOREVER)
        finally:
            self.ended = True


class Connection:
    """What a request can be asked: it says that the client has gone once it has."""

    def __init__(self):
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}


def in_loop(test):
    return lambda: asyncio.run(test())


@in_loop
async def test_a_call_is_in_flight_as_long_as_its_context():
    calls = Calls(FOREVER)
    with calls.open(DEFAULT_OPTIONS, "a") as call:
        assert len(calls) == 1
        assert await call.run(asyncio.sleep(0, "done")) == "done"
    assert len(calls) == 0
    await calls.wait_idle()


@in_loop
async def test_ids_are_drawn_if_not_given_and_unique_while_in_flight():
    calls = Calls(FOREVER)
    with calls.open(DEFAULT_OPTIONS) as first, calls.open(DEFAULT_OPTIONS) as second:
        assert first.request_id != second.request_id
        with pytest.raises(InvalidRequest, match="in use"), calls.open(DEFAULT_OPTIONS, first.request_id):
            pass
    with calls.open(DEFAULT_OPTIONS, first.request_id):
        pass


@in_loop
async def test_aborting_ends_the_work():
    calls, work = Calls(FOREVER), Work()
    with calls.open(DEFAULT_OPTIONS, "a") as call:
        running = asyncio.create_task(call.run(work()))
        await work.began.wait()
        assert calls.abort("a")
        assert calls.abort("a"), "again, before it has ended"
        with pytest.raises(RequestAborted):
            await running
        assert work.ended
    assert not calls.abort("a")


@in_loop
async def test_a_call_that_was_aborted_between_its_parts_does_not_go_on():
    work = Work()
    with Calls(FOREVER).open(DEFAULT_OPTIONS) as call:
        await call.run(asyncio.sleep(0))
        call.abort()
        with pytest.raises(RequestAborted):
            await call.run(work())


@in_loop
async def test_all_can_be_aborted_at_once():
    calls, works = Calls(FOREVER), [Work() for _ in range(3)]

    async def run(work):
        with calls.open(DEFAULT_OPTIONS) as call:
            await call.run(work())

    running = [asyncio.create_task(run(work)) for work in works]
    for work in works:
        await work.began.wait()
    assert calls.abort_all() == 3
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RequestAborted}
    await calls.wait_idle()


@in_loop
async def test_a_call_takes_no_longer_than_it_may_over_all_its_parts():
    work = Work()
    with Calls(0.01).open(DEFAULT_OPTIONS) as call:
        with pytest.raises(RequestTimeout, match=r"0\.01 s"):
            await call.run(work())
        assert work.ended
        with pytest.raises(RequestTimeout):
            await call.run(Work()())


@in_loop
async def test_somebody_elses_timeout_is_passed_on():
    async def work():
        raise TimeoutError("of a database")

    with Calls(FOREVER).open(DEFAULT_OPTIONS) as call, pytest.raises(TimeoutError, match="database"):
        await call.run(work())


@in_loop
async def test_whoever_cancels_the_task_of_a_call_sees_it_cancelled():
    work = Work()
    with Calls(FOREVER).open(DEFAULT_OPTIONS) as call:
        running = asyncio.create_task(call.run(work()))
        await work.began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert work.ended


@in_loop
async def test_a_client_that_goes_away_aborts_its_call():
    connection, work = Connection(), Work()
    with Calls(FOREVER).open(DEFAULT_OPTIONS) as call:
        running = asyncio.create_task(unless_disconnected(connection, call, work()))
        await work.began.wait()
        connection.gone.set()
        with pytest.raises(RequestAborted):
            await running
    assert work.ended


@in_loop
async def test_a_client_that_stays_is_not_waited_for():
    connection = Connection()
    with Calls(FOREVER).open(DEFAULT_OPTIONS) as call:
        assert await unless_disconnected(connection, call, asyncio.sleep(0, "done")) == "done"
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody watches the connection any more"
