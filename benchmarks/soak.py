"""`make soak`: 200,000 mixed requests; the server's memory stays flat.

Four callers send, mixed at random: batches of 1 to 64 rows, now and then 2,000, picture files, calls that are
cancelled, deadlines that are too short, and bad requests of every kind. Bar: from the end of the warm-up, a tenth of
the requests, the server's resident memory grows by less than 5 %, and every answer is what it must be.
"""

from __future__ import annotations

import io
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

from benchmarks import load, process
from tests import models
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc

REQUESTS, CALLERS, GROWTH = 200_000, 4, 0.05
SIDE = models.SIDE


def main() -> int:
    """The exit status: 0 where memory stayed flat and no answer was wrong. An argument: how many requests."""
    total = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        models.put(Path(folder), "pets", 1, models.with_card(models.classifier()))
        with process.server(Path(folder)) as server:
            done, outcomes = spawn.Value("q", 0), spawn.Queue()
            shares = [(server.address, seed, total // CALLERS, done, outcomes) for seed in range(CALLERS)]
            callers = [spawn.Process(target=_caller, args=share) for share in shares]
            for caller in callers:
                caller.start()
            measured = _watch(server, done, callers, total)
            counts: Counter[str] = sum((outcomes.get(timeout=60) for _ in callers), Counter())
            for caller in callers:
                caller.join()
    (_, first), last = measured[0], float(np.median([rss for _, rss in measured[-5:]]))
    growth = last / first - 1
    for name, count in sorted(counts.items()):
        print(f"  {name:<42} {count:>9,}")
    print(f"resident memory {first / 1e6:.1f} MB after the warm-up, {last / 1e6:.1f} MB at the end: {growth:+.1%}")
    print(f"{process.machine()}")
    wrong = counts["WRONG"]
    held = growth < GROWTH and wrong == 0 and sum(counts.values()) == total // CALLERS * CALLERS
    print("held" if held else "NOT held")
    return 0 if held else 1


def _watch(server: process.Running, done, callers, total: int) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
    """(requests done, resident bytes) every half second from the end of the warm-up."""
    measured: list[tuple[int, int]] = []
    while any(caller.is_alive() for caller in callers):
        time.sleep(0.5)
        if done.value >= total // 10:
            measured.append((done.value, server.rss_bytes()))
            print(f"\r  {done.value:>9,} requests, {measured[-1][1] / 1e6:.1f} MB ", end="", file=sys.stderr)
        if done.value >= total:
            break
    print(file=sys.stderr)
    return measured


def _caller(address: str, seed: int, requests: int, done, outcomes) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    with grpc.insecure_channel(address, options=load.OPTIONS) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        kinds = [_batch, _large, _pictures, _cancelled, _late, _bad]
        for number in range(requests):
            kind = kinds[random.choice(len(kinds), p=[0.7, 0.002, 0.1, 0.05, 0.048, 0.1])]
            try:
                counts[kind(stub, random)] += 1
            except grpc.RpcError as error:
                counts["WRONG"] += 1
                print(f"{kind.__name__}: {error}", file=sys.stderr)
            if number % 100 == 99:
                with done.get_lock():
                    done.value += 100
    outcomes.put(counts)


def _ask(rows: np.ndarray) -> pb.PredictRequest:
    return pb.PredictRequest(tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=rows.shape, data=rows.tobytes()))


def _rows(random: np.random.Generator, count: int) -> np.ndarray:
    return random.integers(0, 256, (count, SIDE, SIDE), np.uint8)


def _checked(response: pb.PredictResponse, rows: np.ndarray) -> bool:
    got = np.array([prediction.probabilities for prediction in response.predictions])
    return bool(np.allclose(got, models.expected(rows), atol=1e-5))


def _batch(stub, random: np.random.Generator, count: int = 0) -> str:  # type: ignore[no-untyped-def]
    rows = _rows(random, count or int(random.integers(1, 65)))
    return "batches answered" if _checked(stub.Predict(_ask(rows)), rows) else "WRONG"


def _large(stub, random: np.random.Generator) -> str:  # type: ignore[no-untyped-def]
    return "WRONG" if _batch(stub, random, 2000) == "WRONG" else "batches of 2,000 answered"


def _pictures(stub, random: np.random.Generator) -> str:  # type: ignore[no-untyped-def]
    files, rows = [], _rows(random, 3)
    for row in rows:
        buffer = io.BytesIO()
        Image.fromarray(row).save(buffer, "PNG")
        files.append(buffer.getvalue())
    response = stub.Predict(pb.PredictRequest(images=pb.EncodedImages(images=files)))
    return "batches of pictures answered" if _checked(response, rows) else "WRONG"


def _cancelled(stub, random: np.random.Generator) -> str:  # type: ignore[no-untyped-def]
    call = stub.Predict.future(_ask(_rows(random, 32)))
    time.sleep(float(random.random()) * 0.002)
    call.cancel()
    return "cancelled"


def _late(stub, random: np.random.Generator) -> str:  # type: ignore[no-untyped-def]
    rows = _rows(random, 32)
    try:
        return "answered in time" if _checked(stub.Predict(_ask(rows), timeout=0.001), rows) else "WRONG"
    except grpc.RpcError as error:
        return "too late" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else "WRONG"


def _bad(stub, random: np.random.Generator) -> str:  # type: ignore[no-untyped-def]
    rows = _rows(random, 2)
    requests = [
        _ask(rows.reshape(2, -1)),
        pb.PredictRequest(model="nobody", tensor=_ask(rows).tensor),
        pb.PredictRequest(version=77, tensor=_ask(rows).tensor),
        pb.PredictRequest(images=pb.EncodedImages(images=[random.bytes(200)])),
        pb.PredictRequest(),
    ]
    try:
        stub.Predict(requests[int(random.integers(len(requests)))])
    except grpc.RpcError as error:
        return f"refused: {error.code().name}" if error.code().value[0] in (3, 5) else "WRONG"
    return "WRONG"


if __name__ == "__main__":
    sys.exit(main())
