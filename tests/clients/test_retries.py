"""When a call is tried again, how long it waits, and how it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import grpc
import numpy as np
import pytest

import topclass
from tests import models
from tests.clients.fake import Failure, Fake, answer, serving
from topclass.balance import Balance
from topclass.calls import PREDICT, Caller, Deadline, Pause, Send

Code = grpc.StatusCode
ROW = np.zeros((1, 4, 4), np.uint8)


class Refused(grpc.RpcError):
    """A failed call as grpc raises it."""

    def __init__(self, code: grpc.StatusCode, pushback: str | None = None):
        super().__init__()
        self._code, self._pushback = code, pushback

    def code(self) -> grpc.StatusCode:
        """As grpc's."""
        return self._code

    def details(self) -> str:
        """As grpc's."""
        return "refused"

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """As grpc's."""
        return (("grpc-retry-pushback-ms", self._pushback),) if self._pushback else ()


class Clock:
    """A clock that only pauses move."""

    now = 0.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


def longest(low: float, high: float) -> float:
    """Jitter at its worst."""
    assert low == 0
    return high


def pauses(error: Refused, *, retries: int = 9, timeout: float = 60.0) -> tuple[list[float], topclass.TopclassError]:
    """The pauses of a call that always fails with `error`, with the longest jitter, and how it ends."""
    clock = Clock()
    steps: Generator[Any, bytes, bytes]
    steps = Caller(Balance(["host:1"]), retries, longest).call(PREDICT, b"", Deadline(timeout, clock))
    step, found = next(steps), []
    try:
        while True:
            if isinstance(step, Pause):
                found.append(step.seconds)
                clock.now += step.seconds
                step = steps.send(b"")
            else:
                assert isinstance(step, Send)
                assert step.timeout == pytest.approx(timeout - clock.now)
                step = steps.throw(error)
    except topclass.TopclassError as end:
        return found, end


def test_backoff_doubles() -> None:
    """The pauses double from 0.05 s to 2 s."""
    found, end = pauses(Refused(Code.UNAVAILABLE))
    assert found == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert "(tried 10 times in 9.2 s)" in str(end)


def test_backoff_keeps_to_the_deadline() -> None:
    """No pause is begun that would end after the deadline."""
    found, _ = pauses(Refused(Code.UNAVAILABLE), timeout=0.5)
    assert found == [0.05, 0.1, 0.2]


def test_pushback_is_obeyed() -> None:
    """A full server that says when to come back is left alone for at least so long."""
    found, end = pauses(Refused(Code.RESOURCE_EXHAUSTED, "700"), retries=2)
    assert found == [pytest.approx(0.75), pytest.approx(0.8)]
    assert isinstance(end, topclass.Overloaded)
    assert end.retry_after == 0.7


@pytest.mark.parametrize(
    "error",
    [
        Refused(Code.RESOURCE_EXHAUSTED),
        Refused(Code.RESOURCE_EXHAUSTED, "-1"),
        Refused(Code.RESOURCE_EXHAUSTED, "soon"),
        *(
            Refused(code)
            for code in (Code.INVALID_ARGUMENT, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN, Code.NOT_FOUND)
        ),
    ],
    ids=lambda error: f"{error.code().name} {error._pushback}",
)
def test_never_again(error: Refused) -> None:
    """What another try cannot help, or what does not ask for one, is tried once."""
    found, end = pauses(error)
    assert found == []
    assert "tried" not in str(end)


def test_jitter_is_full() -> None:
    """A pause is anywhere between nothing and its longest."""
    caller = Caller(Balance(["host:1"]), 5)
    fault = topclass.Unavailable("away")
    drawn = [caller._pause(fault, 3) for _ in range(500)]
    assert 0 <= min(drawn) < 0.04
    assert 0.36 < max(drawn) <= 0.4


def test_away_twice_then_there(connect: Callable[..., Any], fake: Fake) -> None:
    """A call that fails twice because the server is away succeeds at the third try."""
    fake.failures = [Failure(Code.UNAVAILABLE), Failure(Code.UNAVAILABLE)]
    assert len(connect(fake.address).predict(ROW)) == 1
    assert len(fake.requests) == 3


def test_full_then_free(connect: Callable[..., Any], fake: Fake) -> None:
    """A call to a full server comes back no sooner than it was told."""
    fake.failures = [Failure(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "150"),))]
    start = time.monotonic()
    connect(fake.address).predict(ROW)
    assert 0.15 <= time.monotonic() - start < 5
    assert len(fake.requests) == 2


def test_one_deadline_for_all_tries(connect: Callable[..., Any], fake: Fake) -> None:
    """A server that stays away costs no more than the timeout, however many retries there may be."""
    fake.failures = [Failure(Code.UNAVAILABLE, "not ready") for _ in range(1000)]
    start = time.monotonic()
    with pytest.raises(topclass.Unavailable, match=r"not ready \(tried \d+ times"):
        connect(fake.address, retries=1000, timeout=0.5).predict(ROW)
    assert time.monotonic() - start < 2


def test_slow_answer(connect: Callable[..., Any], fake: Fake) -> None:
    """An answer that does not come in time is DeadlineExceeded, is not asked for again, and the server is told."""
    fake.behave = fake.hang
    start = time.monotonic()
    with pytest.raises(topclass.DeadlineExceeded, match=r"no answer from .* within 0\.3 s"):
        connect(fake.address).predict(ROW, timeout=0.3)
    assert time.monotonic() - start < 2
    assert len(fake.requests) == 1
    assert fake.cancelled.wait(5)


def test_a_server_that_starts_late(connect: Callable[..., Any]) -> None:
    """A server that comes up while a call is being retried answers that call."""
    with serving(Fake()) as first:
        port = first.port
    client = connect(f"127.0.0.1:{port}", retries=100, timeout=20)
    late = threading.Event()

    def start() -> None:
        time.sleep(0.5)
        with serving(Fake(), port=port):
            late.wait(20)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        assert len(client.predict(ROW)) == 1
    finally:
        late.set()
        thread.join()


def test_cancelling_a_task_cancels_the_call(fake: Fake) -> None:
    """A cancelled task ends at once, and the server is told that its caller has gone."""
    fake.behave = fake.hang

    async def main() -> None:
        async with topclass.AsyncClient(fake.address) as client:
            task = asyncio.create_task(client.predict(ROW))
            assert await asyncio.to_thread(fake.arrived.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake.cancelled.wait, 5)

    asyncio.run(main())


def test_interrupt_cancels_the_call(fake: Fake) -> None:
    """Ctrl-C in the middle of a call raises KeyboardInterrupt, and the server is told that its caller has gone."""
    fake.behave = fake.hang
    program = (
        "import numpy, sys, topclass\n"
        "client = topclass.Client(sys.argv[1])\n"
        "try: client.predict(numpy.zeros((1, 4, 4), 'u1'))\n"
        "except KeyboardInterrupt: print('interrupted', flush=True); input()\n"
    )
    command = [sys.executable, "-c", program, fake.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert fake.arrived.wait(20)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        assert fake.cancelled.wait(5)
        process.communicate("\n")


def test_closing_cancels_the_call(fake: Fake) -> None:
    """Closing a client in one thread ends the calls of the others."""
    fake.behave = fake.hang
    client = topclass.Client(fake.address)
    threading.Timer(0.2, client.close).start()
    with pytest.raises(topclass.TopclassError) as caught:
        client.predict(ROW)
    assert caught.value.code is Code.CANCELLED
    assert fake.cancelled.wait(5)


def test_closing_ends_a_pause(fake: Fake) -> None:
    """Closing a client ends a call that waits for its next try."""
    fake.failures = [Failure(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "20000"),))]
    client = topclass.Client(fake.address)
    threading.Timer(0.2, client.close).start()
    start = time.monotonic()
    with pytest.raises(ValueError, match="this client is closed"):
        client.predict(ROW)
    assert time.monotonic() - start < 5


def test_window_is_bounded(fake: Fake) -> None:
    """predict_many has no more than `window` in flight, and takes a batch only when there is room for it."""
    taken = 0

    def batches() -> Generator[np.ndarray, None, None]:
        nonlocal taken
        for _ in range(30):
            taken += 1
            yield ROW

    def slow(request: Any, _: Any) -> Any:
        time.sleep(0.01)
        return answer(request)

    fake.behave = slow
    with topclass.Client(fake.address) as client:
        for received, _ in enumerate(client.predict_many(batches(), window=3), start=1):
            assert taken - received <= 3
    assert received == 30
    assert 2 <= fake.busiest <= 3


def test_async_window_is_bounded(fake: Fake) -> None:
    """The asyncio client keeps to its window too, and takes batches from an asynchronous source."""
    taken = 0

    async def batches() -> Any:
        nonlocal taken
        for _ in range(30):
            taken += 1
            yield ROW

    def slow(request: Any, _: Any) -> Any:
        time.sleep(0.01)
        return answer(request)

    async def main() -> int:
        received = 0
        async with topclass.AsyncClient(fake.address) as client:
            async for _ in client.predict_many(batches(), window=3):
                received += 1
                assert taken - received <= 3
        return received

    fake.behave = slow
    assert asyncio.run(main()) == 30
    assert 2 <= fake.busiest <= 3


def test_leaving_a_window_cancels_it(fake: Fake) -> None:
    """Closing the iterator of predict_many ends what is in flight at once, and the client can be used on."""
    two_rows = np.zeros((2, 4, 4), np.uint8)
    fake.behave = lambda request, context: (
        answer(request) if request.tensor.shape[0] == 1 else fake.hang(request, context)
    )
    with topclass.Client(fake.address) as client:
        results = client.predict_many(itertools.chain([ROW], itertools.repeat(two_rows)), window=4)
        next(results)
        assert fake.hanging.wait(5)
        start = time.monotonic()
        results.close()
        assert time.monotonic() - start < 5
        assert fake.cancelled.wait(5)
        fake.behave = lambda request, _: answer(request)
        assert len(client.predict(ROW)) == 1


def test_leaving_an_async_window_cancels_it(fake: Fake) -> None:
    """Closing the asynchronous iterator cancels what is in flight, and leaves no task behind."""
    fake.behave = fake.hang_unless_single

    async def main() -> None:
        two_rows = np.zeros((2, 4, 4), np.uint8)
        async with topclass.AsyncClient(fake.address) as client:
            results = client.predict_many(itertools.chain([ROW], itertools.repeat(two_rows)), window=4)
            async with contextlib.aclosing(results):
                assert len(await anext(results)) == 1
                assert await asyncio.to_thread(fake.hanging.wait, 5)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.to_thread(fake.cancelled.wait, 5)

    asyncio.run(main())


def test_first_error_ends_many(connect: Callable[..., Any], server: Any) -> None:
    """An error comes where its result would have come, after the results before it."""
    client = connect(server.address)
    if isinstance(client, topclass.Client):
        results = client.predict_many([ROW, ROW, ROW[:, :2], ROW], "pets")
        assert [len(next(results)), len(next(results))] == [1, 1]
        with pytest.raises(topclass.InvalidInput):
            next(results)
    else:
        with pytest.raises(topclass.InvalidInput):
            client.predict_many([ROW, ROW[:, :2]], "pets")


def test_threads_share_a_client(server: Any) -> None:
    """Threads that share a client each get the answer to their own question."""
    batches = [np.full((2, 4, 4), value, np.uint8) for value in range(16)]
    wrong: list[int] = []

    def ask(index: int) -> None:
        for _ in range(20):
            result = client.predict(batches[index], "pets")
            if not np.allclose(result.probabilities, models.expected(batches[index]), atol=1e-6):
                wrong.append(index)

    with topclass.Client(server.address) as client:
        threads = [threading.Thread(target=ask, args=(index,)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
