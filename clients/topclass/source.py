"""What an asyncio client classifies, taken from its source while other things go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from itertools import islice
from typing import Any


class Source:
    """Takes items in a task of its own, at most `capacity` more than were given back to `room`; `changed` tells.

    One task takes them all, because an asynchronous generator may use what belongs to the task that it began in.
    """

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any], capacity: int, burst: int, changed: asyncio.Event):
        self.room = asyncio.Semaphore(capacity)
        self.waiting: list[Any] = []
        self._changed, self._burst = changed, burst
        self._task = asyncio.create_task(self._read(items))
        self._task.add_done_callback(lambda _: changed.set())

    @property
    def ended(self) -> bool:
        """True when nothing more will come."""
        return self._task.done()

    def take(self, count: int) -> list[Any]:
        """The first `count` of those that wait."""
        taken = list(islice(self.waiting, count))
        del self.waiting[:count]
        return taken

    def check(self) -> None:
        """Raises what the source raised, once it has ended."""
        self._task.result()

    async def close(self) -> None:
        """Ends the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        each = _each(items)
        while True:
            await self.room.acquire()
            try:
                item = await anext(each)
            except StopAsyncIteration:
                return
            self.waiting.append(item)
            self._changed.set()
            if len(self.waiting) % self._burst == 0:
                await asyncio.sleep(0)  # a source that never waits lets the calls begin


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
