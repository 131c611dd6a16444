"""Several pieces of one request's work at once. If one fails, or nobody wants them any more, all end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def all_of(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in their order. They are begun in the same turn of the event loop."""
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T], None]:
    """The items of all as they come, each with the index of its stream. A slow reader holds all up."""
    if len(streams) == 1:
        async with closed_after(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return
    arrived: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()
    room = asyncio.Semaphore(len(streams))

    async def pump(index: int, stream: AsyncIterator[T]) -> None:
        async with closed_after(stream) as items:
            async for item in items:
                await room.acquire()
                arrived.put_nowait((index, item))

    async def pump_all() -> None:
        await all_of([pump(index, stream) for index, stream in enumerate(streams)])

    pumps = asyncio.create_task(pump_all())
    pumps.add_done_callback(lambda _: arrived.put_nowait(None))
    try:
        while (found := await arrived.get()) is not None:
            room.release()
            yield found
        pumps.result()
    finally:
        await _end([pumps])


def closed_after(stream: AsyncIterator[T]) -> aclosing[AsyncGenerator[T, None]]:
    """A context in which a backend's stream is read; leaving it early aborts the request."""
    return aclosing(cast("AsyncGenerator[T, None]", stream))


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
