"""Calls that come together on grpcio are computed together, and one that comes alone does not wait for others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from server.batching import Batcher
from server.crowd import ALONE, MOST_TURNS, PROBE, QUIET_TURNS, Crowd
from server.lanes import Lane, Ticket


class Counted:
    """A lane whose compute remembers the size of each batch."""

    def __init__(self) -> None:
        self.batcher = Batcher(workers=1, max_rows=10_000, max_bytes=1 << 20)
        self.sizes: list[int] = []
        self.lane: Lane = self.batcher.lane(self.compute, 64, 64, seconds=lambda rows: rows * 1e-6)

    def compute(self, rows: np.ndarray) -> np.ndarray:
        self.sizes.append(len(rows))
        return rows.astype(np.float32)

    async def ask(self, value: int) -> None:
        """As a handler on the event loop does; ValueError where the answer is not this caller's."""
        rows = np.full((1, 1), value, np.uint8)
        ticket = Ticket(rows, float("inf"))
        out = ticket.answer() if self.lane.at_once(ticket) else await self.lane.submit(rows)
        if out.rows[0, 0] != value:
            raise ValueError(f"{value} was answered with {out.rows[0, 0]}")


def run(work: Callable[[Counted], Awaitable[None]]) -> Counted:
    """The lane after the work on it, on an event loop of its own."""

    async def all_of_it() -> Counted:
        counted = Counted()
        try:
            await work(counted)
        finally:
            counted.batcher.close()
        return counted

    return asyncio.run(all_of_it())


def test_calls_that_come_one_in_each_turn_are_soon_computed_together() -> None:
    """After the first probe, most of 32 callers' calls share a batch; each gets its own answer."""

    async def caller(counted: Counted, number: int) -> None:
        for _ in range(20):
            await counted.ask(number)
            for _ in range(number % 3 + 1):  # they are not in step
                await asyncio.sleep(0)

    async def many(counted: Counted) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(32):
                tasks.create_task(caller(counted, number))

    counted = run(many)
    assert sum(counted.sizes) == 32 * 20
    assert len([size for size in counted.sizes if size == 1]) < PROBE + 20
    assert max(counted.sizes) > 16


def test_calls_that_come_alone_are_computed_at_once_but_for_the_probes() -> None:
    """One of PROBE calls waits; every batch is of one."""
    waited = 0

    async def alone(counted: Counted) -> None:
        nonlocal waited
        for number in range(3 * PROBE):
            ticket = Ticket(np.full((1, 1), number, np.uint8), float("inf"))
            if not counted.lane.at_once(ticket):
                waited += 1
                await counted.lane.submit(ticket.rows)

    counted = run(alone)
    assert counted.sizes == [1] * (3 * PROBE)
    assert waited == 3


def test_a_gathering_ends_when_no_more_come_or_too_many_turns_have_passed() -> None:
    """QUIET_TURNS without an arrival, or MOST_TURNS in all."""

    async def turns(crowd: Crowd, arrive: bool) -> int:
        over, count = asyncio.Event(), 0
        crowd.gather(over.set)
        while not over.is_set():
            if arrive:
                crowd.arrived()
            count += 1
            await asyncio.sleep(0)
        return count

    async def both() -> tuple[int, int]:
        crowd = Crowd(asyncio.get_running_loop())
        return await turns(crowd, False), await turns(crowd, True)

    quiet, busy = asyncio.run(both())
    assert QUIET_TURNS <= quiet <= QUIET_TURNS + 3
    assert MOST_TURNS <= busy <= MOST_TURNS + 3


def test_a_crowd_that_is_gone_is_not_waited_for() -> None:
    """ALONE gatherings of one, and calls are computed at once again."""

    async def gone() -> list[bool]:
        crowd = Crowd(asyncio.get_running_loop())
        crowd.came(5)
        seen = []
        for _ in range(ALONE + 1):
            seen.append(crowd.is_expected())
            crowd.came(1)
        return seen

    assert asyncio.run(gone()) == [True] * ALONE + [False]
