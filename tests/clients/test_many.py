"""predict_many: batches or single items, errors as answers, cancelling, memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import topclass
from tests import models
from tests.clients.fake import Failure, Fake, answer
from tests.clients.test_predict import PICTURES, PROBABILITIES, png
from topclass.groups import grouped

Code = grpc.StatusCode
ROW = np.zeros((4, 4), np.uint8)


def rows_of(fake: Fake) -> list[int]:
    """How many rows each request had."""
    return [r.tensor.shape[0] if r.HasField("tensor") else len(r.images.images) for r in fake.requests]


def test_single_pictures(client: Any) -> None:
    """Single pictures are answered one by one, in their order, by the same probabilities as in a batch."""
    pictures = [PICTURES[index % 9] for index in range(200)]
    answers = list(client.predict_many(pictures, "pets", batch_size=16))
    assert [type(found) for found in answers] == [topclass.Prediction] * 200
    found = np.array([answer.probabilities for answer in answers])
    np.testing.assert_allclose(found, PROBABILITIES[np.arange(200) % 9], atol=1e-6)


def test_single_pictures_travel_together(connect: Callable[..., Any], fake: Fake) -> None:
    """Neighbours share a request, never more than batch_size of them."""
    assert len(list(connect(fake.address).predict_many([ROW] * 100, batch_size=16))) == 100
    sizes = rows_of(fake)
    assert sum(sizes) == 100
    assert max(sizes) == 16
    assert len(sizes) <= 10


def test_items_of_every_kind(client: Any, tmp_path: Path) -> None:
    """Arrays, paths and bytes may come in any mixture; each request holds one kind."""
    path = tmp_path / "one.png"
    path.write_bytes(png(PICTURES[1]))
    items = [PICTURES[0], str(path), path, png(PICTURES[2]), bytearray(png(PICTURES[3])), PICTURES[4].astype("<f4")]
    *good, last = client.predict_many(items, "pets", batch_size=8, on_error="return")
    np.testing.assert_allclose([a.probabilities for a in good], PROBABILITIES[[0, 1, 1, 2, 3]], atol=1e-6)
    assert isinstance(last, topclass.InvalidInput)
    assert "float32" in last.message


def test_strided_items(client: Any) -> None:
    """However a single picture lies in memory, its own rows are sent."""
    items = [np.asfortranarray(PICTURES[0]), PICTURES[1].T.copy().T, np.repeat(PICTURES[2], 2, axis=1)[:, ::2]]
    found = [answer.probabilities for answer in client.predict_many(items, batch_size=3)]
    np.testing.assert_allclose(found, PROBABILITIES[:3], atol=1e-6)


def test_bad_items_cost_the_others_nothing(client: Any) -> None:
    """With on_error="return" each bad item has its own error in its own place, and all others their answer."""
    good = png(PICTURES[0])
    items = [good, b"no picture", good, "nowhere.png", good, b"", 3.5, good]
    answers = list(client.predict_many(items, "pets", batch_size=8, on_error="return"))
    kinds = [type(found) for found in answers]
    fine = topclass.Prediction
    assert kinds == [fine, topclass.InvalidInput, fine, FileNotFoundError, fine, topclass.InvalidInput, TypeError, fine]
    assert "the picture cannot be decoded" in str(answers[1])
    assert answers[1].row is None
    assert "an item is a float; expected a numpy array of one picture" in str(answers[6])


def test_items_of_a_wrong_shape(connect: Callable[..., Any], server: Any) -> None:
    """Items of a shape that the model does not take each have the server's words, after two requests, not one each."""
    client = connect(server.address)
    wrong = [np.zeros((5, 5), np.uint8)] * 40
    answers = list(client.predict_many([PICTURES[0], *wrong, PICTURES[1]], batch_size=64, on_error="return"))
    assert [isinstance(a, topclass.Prediction) for a in answers] == [True, *[False] * 40, True]
    assert all("uint8 [N, 4, 4]" in str(a) for a in answers[1:41])


@pytest.mark.parametrize("limits", [{"max_request_rows": 5}, {"max_message_bytes": 1024}], ids=["rows", "bytes"])
def test_groups_larger_than_the_server_takes(
    connect: Callable[..., Any], repository: Path, serve: Callable[..., Any], limits: dict[str, int]
) -> None:
    """A group that is too large for the server is cut until it fits, and every item is answered."""
    client = connect(serve(models=repository, **limits).address)
    items = [PICTURES[index % 9] for index in range(150)]
    found = [a.probabilities for a in client.predict_many(items, batch_size=100)]
    np.testing.assert_allclose(found, PROBABILITIES[np.arange(150) % 9], atol=1e-6)


def test_errors_of_batches(client: Any) -> None:
    """With on_error="return" a batch that fails has its error in its place; TypeError and OSError too."""
    batches = [PICTURES, PICTURES[:, :2], np.zeros((1, 4, 4), bool), ["nowhere.png"], PICTURES[:2]]
    found = list(client.predict_many(batches, "pets", on_error="return"))
    expected = [topclass.Result, topclass.InvalidInput, TypeError, FileNotFoundError, topclass.Result]
    assert [type(each) for each in found] == expected


def test_a_source_that_breaks(server: Any) -> None:
    """What the source gave before it raised is answered; then its own error comes."""
    found: list[Any] = []

    def source() -> Iterator[Any]:
        yield from PICTURES[:5]
        raise LookupError("the disk is gone")

    def take(client: topclass.Client, batch_size: int) -> None:
        found.extend(client.predict_many(source(), batch_size=batch_size))

    async def take_async() -> None:
        async with topclass.AsyncClient(server.address) as client:
            async for each in client.predict_many(source(), batch_size=3):
                found.append(each)

    with topclass.Client(server.address) as client:
        for batch_size in (1, 3, 64):
            found.clear()
            with pytest.raises(LookupError, match="the disk is gone"):
                take(client, batch_size)
            assert len(found) == 5
    found.clear()
    with pytest.raises(LookupError, match="the disk is gone"):
        asyncio.run(take_async())
    assert len(found) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "the window is 0; it must be at least 1"),
        ({"batch_size": 0}, "the batch_size is 0; it must be at least 1, or None where the items are batches"),
        ({"on_error": "ignore"}, "on_error is 'ignore'; it must be 'raise' or 'return'"),
        ({"timeout": 0}, "the timeout is 0 s; it must be more than 0"),
        ({"version": -1}, "-1"),
    ],
)
def test_wrong_options(client: Any, options: dict[str, Any], words: str) -> None:
    """What cannot be is a ValueError in words."""
    with pytest.raises(ValueError, match=words):
        list(client.predict_many([PICTURES], **options))


def test_full_servers_are_given_time(connect: Callable[..., Any], fake: Fake) -> None:
    """All calls of a window that a full server sent away come back, no sooner than it said, and at the same time."""
    fake.failures = [Failure(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "200"),)) for _ in range(8)]
    client = connect(fake.address)
    start = time.monotonic()
    assert len(list(client.predict_many([ROW[None]] * 8, window=8))) == 8
    assert 0.2 <= time.monotonic() - start < 1.5
    assert len(fake.requests) == 16


def test_a_slow_source_is_not_waited_for(fake: Fake) -> None:
    """Items that come one at a time go at once, instead of waiting for a full batch."""

    def slow() -> Iterator[Any]:
        for _ in range(5):
            time.sleep(0.03)
            yield ROW

    with topclass.Client(fake.address) as client:
        assert len(list(client.predict_many(slow(), batch_size=64))) == 5
    assert rows_of(fake) == [1] * 5


def test_a_slow_async_source_is_answered_as_it_comes(fake: Fake) -> None:
    """Each answer is there before the next item comes, and what comes while the window is full travels together."""
    fake.behave = lambda request, _: answer(request)
    seen: list[int] = []

    async def main() -> None:
        async def slow() -> AsyncIterator[Any]:
            for number in range(4):
                yield ROW
                await asyncio.sleep(0.2)
                seen.append(number)

        async with topclass.AsyncClient(fake.address) as client:
            await client.predict(ROW[None])
            order = [len(seen) async for _ in client.predict_many(slow(), batch_size=64)]
            assert order == [0, 1, 2, 3]

            fake.behave = lambda request, _: time.sleep(0.05) or answer(request)  # type: ignore[func-returns-value]
            fake.requests.clear()
            assert len([a async for a in client.predict_many([ROW] * 300, batch_size=100, window=1)]) == 300
            assert rows_of(fake) == [100] * 3

    asyncio.run(main())


def test_an_async_source_keeps_its_task(fake: Fake) -> None:
    """A source may use what belongs to one task, such as asyncio.timeout."""

    async def source() -> AsyncIterator[Any]:
        async with asyncio.timeout(10):
            for _ in range(20):
                await asyncio.sleep(0)
                yield ROW

    async def main() -> None:
        async with topclass.AsyncClient(fake.address) as client:
            assert len([a async for a in client.predict_many(source(), batch_size=3)]) == 20

    asyncio.run(main())


def test_leaving_in_the_middle(fake: Fake) -> None:
    """Closing the iterator of single items early ends its calls at once: the server sees each of them go."""
    gone = threading.Semaphore(0)

    def behave(request: Any, context: Any) -> Any:
        if request.tensor.shape[0] == 1:
            return answer(request)
        context.add_callback(gone.release)
        return fake.hang(request, context)

    fake.behave = behave
    with topclass.Client(fake.address) as client:
        items = itertools.chain([ROW, np.zeros((4, 4), np.float32)], itertools.repeat(ROW))
        results = client.predict_many(items, batch_size=2, window=4)
        next(results)
        assert fake.hanging.wait(5)
        results.close()
        assert gone.acquire(timeout=5)
        assert not client._windows


def test_forgetting_an_iterator_ends_its_calls(fake: Fake) -> None:
    """An iterator that nobody holds any more cancels its calls too."""
    fake.behave = fake.hang_unless_single
    with topclass.Client(fake.address) as client:
        results = client.predict_many([ROW[None], *[np.zeros((2, 4, 4), np.uint8)] * 3], window=4)
        next(results)
        assert fake.hanging.wait(5)
        del results
        gc.collect()
        assert fake.cancelled.wait(5)


def test_closing_the_client_ends_a_window(fake: Fake) -> None:
    """Closing the client in another thread ends predict_many, whether it waits for answers or for the next try."""
    fake.behave = fake.hang
    client = topclass.Client(fake.address)
    threading.Timer(0.3, client.close).start()
    with pytest.raises((topclass.TopclassError, ValueError)):
        list(client.predict_many([ROW[None]] * 4))
    assert fake.cancelled.wait(5)
    fake.failures = [Failure(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "20000"),))] * 4
    client = topclass.Client(fake.address)
    threading.Timer(0.3, client.close).start()
    start = time.monotonic()
    with pytest.raises(ValueError, match="this client is closed"):
        list(client.predict_many([ROW[None]] * 4))
    assert time.monotonic() - start < 5


def test_cancelling_a_task_in_a_window(fake: Fake) -> None:
    """A cancelled task that iterates ends at once, with its source, its calls and its tasks."""
    fake.behave = fake.hang
    closed: list[bool] = []

    async def endless() -> AsyncIterator[Any]:
        try:
            while True:
                yield ROW
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async def main() -> None:
        async with topclass.AsyncClient(fake.address) as client:

            async def use() -> None:
                async with contextlib.aclosing(client.predict_many(endless(), batch_size=2)) as results:
                    async for _ in results:
                        pass

            task = asyncio.create_task(use())
            assert await asyncio.to_thread(fake.hanging.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.to_thread(fake.cancelled.wait, 5)

    asyncio.run(main())


def test_the_window_stays_full(fake: Fake) -> None:
    """While the caller is busy with an answer, the next window - 1 requests are with the server."""

    def seen(received: int) -> bool:
        deadline = time.monotonic() + 5
        while len(fake.requests) < min(20, received + 3) and time.monotonic() < deadline:
            time.sleep(0.005)
        return len(fake.requests) >= min(20, received + 3)

    with topclass.Client(fake.address) as client:
        found = [seen(received) for received, _ in enumerate(client.predict_many([ROW[None]] * 20, window=4), 1)]
    assert found == [True] * 20

    async def main() -> None:
        fake.requests.clear()
        async with topclass.AsyncClient(fake.address) as client:
            results = client.predict_many([ROW[None]] * 20, window=4)
            for received in range(1, 21):
                await anext(results)
                assert await asyncio.to_thread(seen, received)

    asyncio.run(main())


def test_time_of_the_caller_is_not_that_of_the_calls(fake: Fake) -> None:
    """A call that failed while the caller was busy for longer than the timeout is tried again all the same."""
    with topclass.Client(fake.address, timeout=1) as client:
        results = client.predict_many([ROW[None]] * 4, window=2)
        fake.failures = []
        next(results)
        fake.failures = [Failure(Code.UNAVAILABLE)]
        next(results)
        time.sleep(1.5)
        assert len(list(results)) == 2


def test_interrupt_ends_a_window(fake: Fake) -> None:
    """Ctrl-C in the middle of predict_many raises KeyboardInterrupt at once, and the server sees the calls go."""
    fake.behave = fake.hang
    program = (
        "import numpy, sys, topclass\n"
        "client = topclass.Client(sys.argv[1])\n"
        "try: list(client.predict_many([numpy.zeros((4, 4), 'u1')] * 9, batch_size=2))\n"
        "except KeyboardInterrupt: print('interrupted', flush=True); input()\n"
    )
    command = [sys.executable, "-c", program, fake.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert fake.arrived.wait(20)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        assert fake.cancelled.wait(5)
        process.communicate("\n")


def test_memory_is_flat(server: Any) -> None:
    """A source without end costs no more memory after ten thousand items than after two thousand."""
    big = np.random.default_rng(0).integers(0, 256, (4, 4), np.uint8)

    def used(results: Any, count: int) -> int:
        for _ in itertools.islice(results, count):
            pass
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with topclass.Client(server.address) as client:
        results = client.predict_many(itertools.repeat(big), batch_size=32)
        tracemalloc.start()
        try:
            before = used(results, 2000)
            assert used(results, 8000) - before < 200_000
        finally:
            tracemalloc.stop()
            results.close()


def test_two_windows_at_once(server: Any) -> None:
    """Iterators of one client, used in turn and in several threads, each give their own answers."""
    wrong: list[int] = []

    def use(seed: int) -> None:
        own = np.random.default_rng(seed).integers(0, 256, (60, 4, 4), np.uint8)
        found = [a.probabilities for a in client.predict_many(list(own), "pets", batch_size=7)]
        if not np.allclose(found, models.expected(own), atol=1e-6):
            wrong.append(seed)

    with topclass.Client(server.address, channels=2) as client:
        pairs = zip(
            client.predict_many(PICTURES, batch_size=2), client.predict_many(PICTURES, batch_size=4), strict=True
        )
        assert all(one.label == other.label for one, other in pairs)
        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_groups() -> None:
    """Neighbours of one dtype and shape go together, up to the size, up to 16 MiB, and while they come quickly."""
    small, large = np.zeros(4, np.uint8), np.zeros(6 << 20, np.uint8)
    floats = np.zeros(4, np.float32)
    assert [len(g) for g in grouped([small] * 5, 2)] == [2, 2, 1]
    assert [len(g) for g in grouped([small, small, floats, small, b"x", "y", small], 9)] == [2, 1, 1, 2, 1]
    assert [len(g) for g in grouped([large] * 5, 64)] == [2, 2, 1]
    ticks = itertools.count()
    assert [len(g) for g in grouped([small] * 3, 9, clock=lambda: float(next(ticks)))] == [1, 1, 1]
    assert list(grouped([], 3)) == []
