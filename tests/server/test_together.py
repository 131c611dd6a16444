"""Several pieces of one request's work at once: order, failure, and the end of what nobody wants."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from ramet import EngineError
from ramet.server.together import all_of, merged


class Source:
    """A stream of items that notes whether it was closed."""

    def __init__(self, *items, fails=False, endless=False):
        self.items = items
        self.fails = fails
        self.endless = endless
        self.given = 0
        self.closed = False

    async def stream(self):
        try:
            for item in self.items:
                self.given += 1
                yield item
                await asyncio.sleep(0)
            if self.fails:
                raise EngineError("it broke")
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def gathered(*sources):
    async def run():
        async with aclosing(merged([source.stream() for source in sources])) as items:
            return [item async for item in items]

    return asyncio.run(run())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_stream_keeps_its_order(count):
    sources = [Source(*range(10 + index)) for index in range(count)]
    items = gathered(*sources)
    for index in range(count):
        assert [item for origin, item in items if origin == index] == list(range(10 + index))
    assert all(source.closed for source in sources)


def test_streams_take_turns():
    items = gathered(Source(*"aaa"), Source(*"bbb"))
    assert items.index((1, "b")) < 3


def test_a_failure_comes_after_what_was_said_and_ends_the_others():
    broken, other = Source("a", fails=True), Source("b", endless=True)
    said = []

    async def run():
        async for item in merged([broken.stream(), other.stream()]):
            said.append(item)

    with pytest.raises(EngineError, match="it broke"):
        asyncio.run(run())
    assert (0, "a") in said
    assert broken.closed and other.closed


@pytest.mark.parametrize("count", [1, 3])
def test_closing_early_closes_all(count):
    sources = [Source(*range(1000)) for _ in range(count)]

    async def run():
        async with aclosing(merged([source.stream() for source in sources])) as items:
            await anext(items)
        assert all(source.closed for source in sources)

    asyncio.run(run())


def test_a_slow_reader_holds_streams_up():
    sources = [Source(*range(1000)) for _ in range(3)]

    async def run():
        async with aclosing(merged([source.stream() for source in sources])) as items:
            await anext(items)
            for _ in range(100):
                await asyncio.sleep(0)
            assert sum(source.given for source in sources) < 10

    asyncio.run(run())


def test_all_results_in_order():
    async def late(value, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return value

    async def run():
        return await all_of([late("a", 5), late("b", 0), late("c", 2)])

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_one_failure_ends_all():
    ended = []

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def fail():
        await asyncio.sleep(0)
        raise EngineError("it broke")

    async def run():
        await all_of([wait(), fail(), wait()])

    with pytest.raises(EngineError, match="it broke"):
        asyncio.run(run())
    assert ended == [True, True]
