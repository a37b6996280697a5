"""The queue and its workers: every row goes to its owner or gets its error, exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.batching import Batcher
from server.errors import DeadlinePassed, QueueFull


def double(rows: np.ndarray) -> np.ndarray:
    """What the lanes here compute: each row's values doubled."""
    return rows * 2


def column(values: list[float] | range | np.ndarray) -> np.ndarray:
    """float32 [n, 1]."""
    return np.asarray(values, np.float32).reshape(-1, 1)


def run(scenario: Callable[[Batcher], Awaitable[None]], workers: int = 2, **limits: Any) -> None:
    """Runs a scenario on a batcher, which must be drained and empty after it."""

    async def main() -> None:
        batcher = Batcher(**({"workers": workers, "max_rows": 10**6, "max_bytes": 10**9} | limits))
        try:
            await scenario(batcher)
            await asyncio.wait_for(batcher.drain(), 10)
            assert batcher.waiting_rows == 0
        finally:
            batcher.close()

    asyncio.run(main())


class Gate:
    """A compute function that waits until it is opened, and remembers what it was given."""

    def __init__(self) -> None:
        self.opened, self.entered, self.batches = threading.Event(), threading.Event(), list[np.ndarray]()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.batches.append(rows.copy())
        self.entered.set()
        assert self.opened.wait(10)
        return rows * 2


async def entered(gate: Gate) -> None:
    """Returns when a worker is inside."""
    assert await asyncio.to_thread(gate.entered.wait, 10)


def test_what_waits_together_is_computed_together() -> None:
    """Requests that arrive while the worker is busy become one batch."""
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(gate, 100, 100)
        first = lane.submit(column([0]))
        await entered(gate)
        others = [lane.submit(column([n])) for n in range(1, 11)]
        gate.opened.set()
        answers = [await future for future in [first, *others]]
        assert [a.rows.tolist() for a in answers] == [[[2.0 * n]] for n in range(11)]
        assert [len(batch) for batch in gate.batches] == [1, 10]
        assert [a.batch_rows for a in answers] == [1] + [10] * 10

    run(scenario, workers=1)


def test_a_lone_request_is_computed_at_once() -> None:
    """Nothing is added to a lone caller's delay: no window, no timer."""

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(double, 100, 100)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            await lane.submit(column([1]))
            times.append(time.perf_counter() - start)
        assert sorted(times)[25] < 1e-3

    run(scenario)


def test_a_large_request_is_cut_over_the_workers_and_put_together() -> None:
    """Its pieces are at most piece_rows, several workers take them, and the rows come back in order."""
    sizes, names = [], set()

    def compute(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        names.add(threading.current_thread().name)
        time.sleep(0.002)
        return rows * 2

    async def scenario(batcher: Batcher) -> None:
        answer = await batcher.lane(compute, 64, 8).submit(column(range(1000)))
        assert (answer.rows == column(range(1000)) * 2).all()

    run(scenario)
    assert max(sizes) == 64
    assert sum(sizes) == 1000
    assert len(names) == 2


def test_small_requests_go_before_the_next_piece_of_a_large_one() -> None:
    """A small request waits for pieces in hand, never for a whole large request."""
    order: list[int] = []

    def compute(rows: np.ndarray) -> np.ndarray:
        order.append(len(rows))
        time.sleep(0.001)
        return rows * 2

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(compute, 10, 5)
        large = lane.submit(column(range(1000)))
        await asyncio.sleep(0.01)
        await lane.submit(column([1]))
        assert not large.done()
        assert len(order) < 50
        await large

    run(scenario, workers=1)


def test_small_requests_do_not_starve_a_large_one() -> None:
    """Under a constant stream of small requests a large one still gets a piece after every few batches."""

    def compute(rows: np.ndarray) -> np.ndarray:
        time.sleep(0.0005)
        return rows * 2

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(compute, 10, 5)
        large = lane.submit(column(range(100)))

        async def caller() -> None:
            while not large.done():
                await lane.submit(column([1]))

        await asyncio.wait_for(asyncio.gather(*(caller() for _ in range(8)), large), 5)

    run(scenario, workers=1)


def test_a_caller_that_leaves_does_not_hurt_its_neighbours() -> None:
    """Of requests waiting together, those that are cancelled are never computed and the others are answered."""
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(gate, 100, 100)
        first = lane.submit(column([100]))
        await entered(gate)
        futures = [lane.submit(column([n])) for n in range(10)]
        for future in futures[::2]:
            future.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting_rows == 5
        gate.opened.set()
        answers = await asyncio.gather(first, *futures[1::2])
        assert [a.rows[0, 0] for a in answers] == [200, 2, 6, 10, 14, 18]
        assert [batch[:, 0].tolist() for batch in gate.batches] == [[100], [1, 3, 5, 7, 9]]

    run(scenario, workers=1)


def test_expired_work_is_never_computed() -> None:
    """A request whose deadline passes in the queue gets DeadlinePassed, and no worker sees its rows."""
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(gate, 100, 100)
        first = lane.submit(column([0]))
        await entered(gate)
        late = lane.submit(column([1]), deadline=time.monotonic() + 0.01)
        fine = lane.submit(column([2]), deadline=time.monotonic() + 60)
        await asyncio.sleep(0.03)
        gate.opened.set()
        with pytest.raises(DeadlinePassed, match="deadline passed while the request waited"):
            await late
        assert (await fine).rows[0, 0] == 4
        await first
        assert [batch[:, 0].tolist() for batch in gate.batches] == [[0], [2]]

    run(scenario, workers=1)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    """QueueFull, at the first row over the limit, with a time to wait; what was accepted is answered."""
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(gate, 100, 100)
        first = lane.submit(column([0]))
        await entered(gate)
        accepted = [lane.submit(column([1, 1])) for _ in range(5)]
        with pytest.raises(QueueFull, match="10 rows wait, and 1 more would exceed 10 rows") as caught:
            lane.submit(column([9]))
        assert 10 <= caught.value.retry_after_ms <= 5000
        gate.opened.set()
        assert len(await asyncio.gather(first, *accepted)) == 6
        assert (await lane.submit(column([3]))).rows[0, 0] == 6

    run(scenario, workers=1, max_rows=10)


def test_the_queue_is_bounded_in_bytes_too() -> None:
    """QueueFull for bytes although the rows would fit."""
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(gate, 100, 100)
        first = lane.submit(column([0]))
        await entered(gate)
        second = lane.submit(column(range(25)))
        with pytest.raises(QueueFull, match="or 100 bytes"):
            lane.submit(column([1]))
        gate.opened.set()
        await asyncio.gather(first, second)

    run(scenario, workers=1, max_bytes=100)


def test_rows_that_break_the_computation_break_only_their_own_request() -> None:
    """When a batch fails, each request in it is computed alone: the guilty one gets the error."""

    def compute(rows: np.ndarray) -> np.ndarray:
        if (rows == 13).any():
            raise ValueError("unlucky")
        time.sleep(0.005)
        return rows * 2

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(compute, 100, 100)
        futures = [lane.submit(column([n])) for n in range(10, 20)]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [str(r) for r in results if isinstance(r, Exception)] == ["unlucky"]
        assert [r.rows[0, 0] for r in results if not isinstance(r, Exception)] == [20, 22, 24, 28, 30, 32, 34, 36, 38]

    run(scenario)


def test_models_take_turns() -> None:
    """A lane with much work does not hold up another lane."""

    def slow(rows: np.ndarray) -> np.ndarray:
        time.sleep(0.002)
        return rows * 2

    async def scenario(batcher: Batcher) -> None:
        busy, other = batcher.lane(slow, 10, 5), batcher.lane(slow, 10, 5)
        flood = [busy.submit(column(range(1000))) for _ in range(3)]
        await asyncio.sleep(0.005)
        start = time.perf_counter()
        await other.submit(column([1]))
        assert time.perf_counter() - start < 0.1
        assert not any(future.done() for future in flood)
        for future in flood:
            future.cancel()

    run(scenario, workers=1)


def test_a_lower_priority_goes_after_but_still_goes() -> None:
    """Of what waits, priority 0 goes first; priority 1 gets a turn after every four pieces of it."""
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(gate, 1, 1)
        first = lane.submit(column([0]))
        await entered(gate)
        later = [lane.submit(column([100 + n]), priority=1) for n in range(3)]
        sooner = [lane.submit(column([n])) for n in range(1, 10)]
        gate.opened.set()
        await asyncio.gather(first, *later, *sooner)
        assert [int(batch[0, 0]) for batch in gate.batches] == [0, 1, 2, 3, 4, 100, 5, 6, 7, 8, 101, 9, 102]

    run(scenario, workers=1)


def test_a_window_lets_the_first_arrival_wait_for_others() -> None:
    """With a window, what arrives within it becomes one batch, although the workers are idle."""
    sizes = []

    def compute(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return rows * 2

    async def scenario(batcher: Batcher) -> None:
        lane = batcher.lane(compute, 100, 100)
        futures = []
        for number in range(10):
            futures.append(lane.submit(column([number])))
            await asyncio.sleep(0.002)
        await asyncio.gather(*futures)
        assert sizes == [10]

    run(scenario, window_seconds=0.5)


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 60),  # rows
        st.sampled_from(["fine", "fine", "fine", "cancel at once", "cancel later", "poison", "late"]),
        st.integers(0, 1),  # lane
        st.booleans(),  # whether to let the loop turn first
        st.integers(0, 2),  # priority
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.integers(1, 4), st.integers(1, 30), st.integers(1, 30))
def test_every_row_goes_to_its_owner_or_gets_its_error_exactly_once(
    requests: list[tuple[int, str, int, bool, int]], workers: int, piece: int, split: int
) -> None:
    """Whatever arrives, of whatever size, whoever leaves or fails: each request gets its own rows or its own error."""

    def compute(rows: np.ndarray) -> np.ndarray:
        if (rows < 0).any():
            raise ValueError("poison")
        return rows * 2

    async def scenario(batcher: Batcher) -> None:
        lanes = [batcher.lane(compute, piece, split) for _ in range(2)]
        submitted = []
        for number, (size, fate, lane, turn, priority) in enumerate(requests):
            rows = column(np.arange(size) + 1000 * (number + 1)) * (-1 if fate == "poison" else 1)
            deadline = time.monotonic() - 1 if fate == "late" else time.monotonic() + 60
            future = lanes[lane].submit(rows, deadline, priority)
            submitted.append((fate, rows, future))
            if fate == "cancel at once":
                future.cancel()
            if turn:
                await asyncio.sleep(0)
        for fate, _, future in submitted:
            if fate == "cancel later":
                future.cancel()
        results = await asyncio.wait_for(
            asyncio.gather(*(future for *_, future in submitted), return_exceptions=True), 10
        )
        for (fate, rows, _), result in zip(submitted, results, strict=True):
            match fate:
                case "fine":
                    assert (result.rows == rows * 2).all()
                case "poison":
                    assert isinstance(result, ValueError)
                case "late":
                    assert isinstance(result, DeadlinePassed)
                case "cancel at once":
                    assert isinstance(result, asyncio.CancelledError)
                case "cancel later":
                    assert isinstance(result, asyncio.CancelledError) or (result.rows == rows * 2).all()

    run(scenario, workers=workers)
