"""Several servers and several connections: each in turn, a dead one left and taken again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import topclass
from tests.clients.fake import Failure, Fake, answer, serving
from topclass.balance import Balance

Code = grpc.StatusCode
ROW = np.zeros((1, 4, 4), np.uint8)
DEAD = "127.0.0.1:1"


class Clock:
    """A clock that only the test moves."""

    now = 0.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


@pytest.fixture
def pair() -> Iterator[tuple[Fake, Fake]]:
    """Two servers."""
    with serving(Fake()) as one, serving(Fake()) as other:
        yield one, other


def test_each_in_turn() -> None:
    """Addresses get the calls one after the other."""
    balance = Balance(["a", "b", "c"])
    assert [balance.pick() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_the_dead_rest_longer_each_time() -> None:
    """One that fails is left for a quarter of a second, then twice as long, up to 5 s; then one call tries it."""
    clock = Clock()
    balance = Balance(["a", "b"], clock)
    rests = []
    for _ in range(7):
        balance.failed(0)
        start = clock.now
        while balance.pick() != 0:
            clock.now += 0.125
        rests.append(clock.now - start)
        assert {balance.pick() for _ in range(5)} == {1}  # while the trial is under way
    assert rests == [0.25, 0.5, 1, 2, 4, 5, 5]
    balance.answered(0)
    assert [balance.pick() for _ in range(4)] in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_while_all_are_away_one_is_asked_all_the_same() -> None:
    """The one that may be back first is asked, and nobody is thought to be elsewhere."""
    clock = Clock()
    balance = Balance(["a", "b"], clock)
    balance.failed(1)
    assert balance.elsewhere
    clock.now = 0.1
    balance.failed(0)
    assert not balance.elsewhere
    assert [balance.pick() for _ in range(3)] == [1, 1, 1]


def test_a_server_that_refuses_is_there(connect: Callable[..., Any], pair: tuple[Fake, Fake]) -> None:
    """An error that a server gives is an answer: the next call goes there as to any other."""
    pair[0].failures = [Failure(Code.UNAVAILABLE), *[Failure(Code.INVALID_ARGUMENT)] * 100]
    client = connect([fake.address for fake in pair])
    deadline, refused = time.monotonic() + 20, 0
    while refused < 5 and time.monotonic() < deadline:
        try:
            client.predict(ROW)
        except topclass.InvalidInput:
            refused += 1
        time.sleep(0.01)
    before = len(pair[0].requests)
    for _ in range(4):
        with contextlib.suppress(topclass.InvalidInput):
            client.predict(ROW)
    assert refused == 5
    assert len(pair[0].requests) == before + 2


def test_calls_go_to_all(connect: Callable[..., Any], pair: tuple[Fake, Fake]) -> None:
    """Two servers get half of the calls each."""
    client = connect([fake.address for fake in pair])
    for _ in range(10):
        client.predict(ROW)
    assert [len(fake.requests) for fake in pair] == [5, 5]


def test_a_dead_one_costs_no_call(connect: Callable[..., Any], fake: Fake) -> None:
    """With one of two servers away every call is answered by the other, at once, even with a single retry."""
    client = connect([DEAD, fake.address], retries=1)
    start = time.monotonic()
    for _ in range(50):
        assert len(client.predict(ROW)) == 1
    assert time.monotonic() - start < 3
    assert len(list(client.predict_many([ROW] * 50))) == 50


def test_a_server_that_stops_is_left_and_taken_again(connect: Callable[..., Any], pair: tuple[Fake, Fake]) -> None:
    """A server that says that it is stopping gets no more calls but a trial, and its share when it is back."""
    stopping, other = pair
    stopping.failures = [Failure(Code.UNAVAILABLE, "stopping")] * 2
    client = connect([fake.address for fake in pair])
    for _ in range(20):
        client.predict(ROW)
    assert len(stopping.requests) <= 2
    deadline = time.monotonic() + 20
    while len(stopping.requests) < 10 and time.monotonic() < deadline:
        client.predict(ROW)
        time.sleep(0.02)
    assert len(stopping.requests) >= 10
    assert len(other.requests) > 20


def test_killed_and_back_in_the_middle_of_many() -> None:
    """A server that goes away in the middle of predict_many, and comes back, costs no answer and no order."""
    batches = [np.zeros((1 + index % 5, 4, 4), np.uint8) for index in range(300)]

    def slow(request: Any, _: Any) -> Any:
        time.sleep(0.005)
        return answer(request)

    with serving(Fake(behave=slow)) as steady, contextlib.ExitStack() as first:
        port = first.enter_context(serving(Fake(behave=slow))).port
        with topclass.Client([steady.address, f"127.0.0.1:{port}"], retries=10) as client:
            results = client.predict_many(batches, window=6)
            found = [next(results) for _ in range(50)]
            first.close()  # calls in progress there fail
            found += [next(results) for _ in range(100)]
            with serving(Fake(behave=slow), port=port) as back:
                found += list(results)
                deadline = time.monotonic() + 20
                while len(back.requests) < 2 and time.monotonic() < deadline:
                    client.predict(ROW)
                assert len(back.requests) >= 2
    assert [len(result) for result in found] == [len(batch) for batch in batches]


def test_all_away(connect: Callable[..., Any]) -> None:
    """Where no server answers, the error names the one that was asked last, and how often it was tried."""
    client = connect([DEAD, "127.0.0.1:2"], retries=3)
    with pytest.raises(topclass.Unavailable, match=r"at 127\.0\.0\.1:[12]: Connection refused.*tried 4 times"):
        client.predict(ROW)
    assert not client.healthy()


def test_several_connections(fake: Fake) -> None:
    """Calls go round the connections to one server, each of which is a connection of its own."""
    peers: set[str] = set()

    def note(request: Any, context: grpc.ServicerContext) -> Any:
        peers.add(context.peer())
        return answer(request)

    fake.behave = note
    with topclass.Client(fake.address, channels=3) as client:
        for _ in range(9):
            client.predict(ROW)
    assert len(peers) == 3

    async def main() -> None:
        async with topclass.AsyncClient(fake.address, channels=2) as client:
            await asyncio.gather(*(client.predict(ROW) for _ in range(8)))

    peers.clear()
    asyncio.run(main())
    assert len(peers) == 2


def test_a_connection_is_used_again(fake: Fake) -> None:
    """One client makes one connection, however many calls there are."""
    peers: set[str] = set()
    fake.behave = lambda request, context: peers.add(context.peer()) or answer(request)  # type: ignore[func-returns-value]
    with topclass.Client(fake.address) as client:
        for _ in range(5):
            client.predict(ROW)
        assert len(list(client.predict_many([ROW] * 20))) == 20
    assert len(peers) == 1


def test_a_name_for_several(connect: Callable[..., Any], fake: Fake) -> None:
    """dns:///localhost is asked at all its addresses, and where one of them (::1) is nobody, the other answers."""
    client = connect(f"dns:///localhost:{fake.port}")
    for _ in range(10):
        assert len(client.predict(ROW)) == 1


@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        ([], {}, "there is no address; expected HOST:PORT"),
        (["127.0.0.1:1", "nowhere"], {}, "the address is 'nowhere'; expected HOST:PORT"),
        (["127.0.0.1:1", 8001], {}, "the address is 8001; expected HOST:PORT"),
        (["127.0.0.1:1", "127.0.0.1:1"], {}, "127.0.0.1:1 is there twice; for several connections to it say channels"),
        ("127.0.0.1:1", {"channels": 0}, "channels is 0; it must be from 1 to 64"),
        ("127.0.0.1:1", {"channels": 65}, "channels is 65; it must be from 1 to 64"),
    ],
)
def test_wrong_addresses(connect: Callable[..., Any], address: Any, options: dict[str, int], words: str) -> None:
    """Addresses and channels that cannot be are refused in words, before anything is sent."""
    with pytest.raises(ValueError, match=words):
        connect(address, **options)
