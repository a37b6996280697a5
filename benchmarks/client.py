"""`make bench-client`: our client beside what one writes first with the generated stubs, as ratios of one run.

Each way is a process of its own that calls one server for some seconds; they take turns, and the medians of the rounds
count. The client's processor time is that of its process. Answers are compared with each other before. The second table
is the cost of the messages alone, in this process: what the protobuf library does with them, and what we do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks import load, process
from benchmarks.timing import best
from server.lanes import Answer
from server.wire import ResponseWriter
from tests import models
from topclass import AsyncClient, Client, wire
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc as rpc

CLASSES, LARGE, CONCURRENT = 10, 1024, 64
# At least so many times less processor time than the first of each part; rates tell more of what else runs here.
READ_FLOOR, MANY_FLOOR, LARGE_FLOOR = 8.0, 8.0, 2.0
_spawn = multiprocessing.get_context("spawn")
Steps = Iterator[int]  # one way to call: after each step, how many pictures were answered


@dataclass(frozen=True)
class Seen:
    """Pictures a second, and seconds of the client's processors for 1,000 of them."""

    rate: float
    cpu: float


def pictures(count: int) -> np.ndarray:
    """uint8 [count, 28, 28], the same each time."""
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)


def ask(array: np.ndarray) -> pb.PredictRequest:
    """The request as one builds it from the documentation of the messages."""
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=array.shape, data=array.tobytes())
    return pb.PredictRequest(tensor=tensor)


def read(response: pb.PredictResponse) -> np.ndarray:
    """All probabilities, as one reads them first."""
    return np.array([row.probabilities for row in response.predictions], np.float32)


def stub_one(address: str, count: int) -> Steps:
    """Stubs, one call after the other."""
    stub, array = rpc.InferenceServiceStub(grpc.insecure_channel(address, load.OPTIONS)), pictures(count)
    while True:
        yield len(read(stub.Predict(ask(array))))


def client_one(address: str, count: int) -> Steps:
    """Client.predict, one call after the other."""
    array = pictures(count)
    with Client(address) as client:
        while True:
            yield len(client.predict(array).probabilities)


def client_many(address: str, count: int, **options: Any) -> Steps:
    """Client.predict_many."""
    array = pictures(count)
    with Client(address) as client:
        if count > 1:
            yield from (len(result) for result in client.predict_many(itertools.repeat(array), **options))
        else:
            yield from (1 for _ in client.predict_many(itertools.repeat(array[0]), batch_size=64, **options))


def stub_threads(address: str, count: int) -> Steps:
    """Stubs, in a pool of 8 threads."""
    from concurrent.futures import ThreadPoolExecutor

    stub, array = rpc.InferenceServiceStub(grpc.insecure_channel(address, load.OPTIONS)), pictures(count)

    def call(_: int) -> int:
        return len(read(stub.Predict(ask(array))))

    with ThreadPoolExecutor(8) as pool:
        while True:
            yield sum(pool.map(call, range(32)))


def _steps(make: Callable[[], Any]) -> Steps:
    """The steps of an asynchronous generator, which has an event loop of its own."""
    with asyncio.Runner() as runner:
        steps = make()
        while True:
            yield runner.run(anext(steps))


def stub_async(address: str, count: int) -> Steps:
    """Stubs of asyncio, 64 calls at once."""

    async def steps() -> Any:
        stub: Any = rpc.InferenceServiceStub(grpc.aio.insecure_channel(address, load.OPTIONS))
        array = pictures(count)
        while True:
            responses = await asyncio.gather(*(stub.Predict(ask(array)) for _ in range(CONCURRENT)))
            yield sum(len(read(response)) for response in responses)

    return _steps(steps)


def client_async(address: str, count: int) -> Steps:
    """AsyncClient.predict, 64 calls at once."""

    async def steps() -> Any:
        async with AsyncClient(address) as client:
            array = pictures(count)
            while True:
                results = await asyncio.gather(*(client.predict(array) for _ in range(CONCURRENT)))
                yield sum(len(result.probabilities) for result in results)

    return _steps(steps)


def client_async_many(address: str, count: int) -> Steps:
    """AsyncClient.predict_many of single pictures."""

    async def steps() -> Any:
        async with AsyncClient(address) as client:
            source = itertools.repeat(pictures(count)[0])
            results = client.predict_many(source, batch_size=64)
            while True:  # an event loop is left and entered again for each step: not for each picture
                for _ in range(CONCURRENT):
                    await anext(results)
                yield CONCURRENT

    return _steps(steps)


Way = tuple[str, Callable[[str, int], Steps]]
# In each part the first way is what the others are measured by.
PARTS: list[tuple[str, int, list[Way], float]] = [
    ("1 picture, one call at a time", 1, [("stub", stub_one), ("Client.predict", client_one)], 0),
    (
        "single pictures, as many as there are",
        1,
        [
            ("stub, one after the other", stub_one),
            ("stub, 8 threads", stub_threads),
            ("Client.predict_many(batch_size=64)", client_many),
        ],
        MANY_FLOOR,
    ),
    (
        "single pictures, asyncio",
        1,
        [
            ("stub, 64 at once", stub_async),
            ("AsyncClient.predict, 64 at once", client_async),
            ("AsyncClient.predict_many(batch_size=64)", client_async_many),
        ],
        MANY_FLOOR / 2,
    ),
    (
        f"batches of {LARGE:,}",
        LARGE,
        [("stub", stub_one), ("Client.predict", client_one), ("Client.predict_many", client_many)],
        LARGE_FLOOR,
    ),
]


def _run(pipe: Any, way: Callable[[str, int], Steps], address: str, count: int, seconds: float) -> None:
    steps = way(address, count)
    for _ in range(3):
        next(steps)
    before, start, done = _cpu(), time.monotonic(), 0
    while time.monotonic() - start < seconds:
        done += next(steps)
    took, cpu = time.monotonic() - start, _cpu() - before
    pipe.send(Seen(done / took, cpu / done * 1000))
    pipe.close()


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(way: Callable[[str, int], Steps], address: str, count: int, seconds: float) -> Seen:
    """What one way does in a process of its own."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_run, args=(theirs, way, address, count, seconds), daemon=True)
    process.start()
    if not ours.poll(seconds + 60):
        process.kill()
        raise SystemExit(f"{way.__name__} did not end")
    seen: Seen = ours.recv()
    process.join(1)
    process.kill()  # grpc's threads may hold it up
    return seen


def check(address: str) -> None:
    """SystemExit unless our client and the stub read the same answer."""
    array = pictures(LARGE)
    with Client(address) as client, grpc.insecure_channel(address, load.OPTIONS) as channel:
        expected = read(rpc.InferenceServiceStub(channel).Predict(ask(array)))
        many = np.array([found.probabilities for found in client.predict_many(list(array), batch_size=LARGE)])
        if not (client.predict(array).probabilities == expected).all() or not np.allclose(many, expected, atol=1e-6):
            raise SystemExit("the answers differ")


def messages() -> list[tuple[str, int, float, float]]:
    """What is done, to how many rows, and the microseconds that it takes by the library and by us."""
    found = []
    for kind, labels in (
        ("one length", [str(n) for n in range(CLASSES)]),
        ("any length", ["x" * n for n in range(CLASSES)]),
    ):
        writer = ResponseWriter("mlp", 1, "f" * 64, "CPUExecutionProvider", labels)
        for count in (1, 32, LARGE):
            rows = np.random.default_rng(0).dirichlet(np.ones(CLASSES), count).astype(np.float32)
            data = writer.write(Answer(rows, 0.001, 0.001, count), pb.PredictRequest())
            library = best(lambda data=data: wire._rows(pb.PredictResponse.FromString(data)))  # type: ignore[misc]
            ours = best(lambda data=data: wire.read_reply(data))  # type: ignore[misc]
            found.append((f"read an answer, labels of {kind}", count, library, ours))
    for count in (1, 32, LARGE):
        array = pictures(count)
        library = best(lambda array=array: ask(array).SerializeToString())  # type: ignore[misc]
        ours = best(lambda array=array: wire.predict_request(wire.prepared(array), wire.Query()))  # type: ignore[misc]
        found.append(("write a request", count, library, ours))
    return found


def main() -> int:
    """The exit status: 0 where every floor is held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    held = True
    busy = process.foreign_load()
    with tempfile.TemporaryDirectory() as folder:
        models.put(Path(folder), "mlp", 1, models.classifier((28, 28), classes=CLASSES))
        with process.server(Path(folder)) as server:
            check(server.address)
            for title, count, ways, floor in PARTS:
                seen: list[list[Seen]] = [[] for _ in ways]
                for _ in range(chosen.rounds):
                    for number, (_, way) in enumerate(ways):
                        seen[number].append(measure(way, server.address, count, chosen.seconds))
                rates = [float(np.median([each.rate for each in found])) for found in seen]
                costs = [float(np.median([each.cpu for each in found])) for found in seen]
                print(f"{title:<44} {'pictures/s':>12} {'ratio':>7} {'client CPU s/1,000':>19} {'ratio':>7}")
                for (name, _), rate, cost in zip(ways, rates, costs, strict=True):
                    print(f"  {name:<42} {rate:>12,.0f} {rate / rates[0]:>7.2f} {cost:>19.4f} {cost / costs[0]:>7.2f}")
                if floor and costs[0] < floor * costs[-1]:
                    held = False
                    print(f"  NOT held: at least {floor:g} times less processor time than the first")
    print(f"{'messages of 10 classes, µs':<44} {'rows':>12} {'library':>9} {'ours':>9} {'times':>7}")
    for what, count, library, ours in messages():
        print(f"  {what:<42} {count:>12,} {library:>9.1f} {ours:>9.1f} {library / ours:>7.1f}")
        if count == LARGE and "one length" in what and library < READ_FLOOR * ours:
            held = False
            print(f"  NOT held: at least {READ_FLOOR:g} times")
    print(f"{process.machine()}; {busy:.2f} processors busy with other things before")
    print("held" if held else "NOT held")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
