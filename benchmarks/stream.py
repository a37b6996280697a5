"""One-picture messages over PredictStream, which h2load cannot send: a client in a process of its own.

It is Python, and on fast servers the limit itself, so of its figures the server's processor time says most. All servers
get the same client. Every answer is compared with what is right, after the clock has stopped.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection

import grpc
import numpy as np

from benchmarks import messages
from benchmarks.h2load import Result
from benchmarks.load import OPTIONS
from topclass.v1 import inference_pb2 as pb

STREAMS = 8
PATH = "/topclass.v1.InferenceService/PredictStream"
_spawn = multiprocessing.get_context("spawn")


def run(address: str, message: bytes, right: np.ndarray, requests: int, concurrent: int) -> Result:
    """So many messages over STREAMS streams, `concurrent` of them in flight; WrongAnswer where one is not `right`."""
    ours, theirs = _spawn.Pipe()
    client = _spawn.Process(target=_client, args=(theirs, address, message, right, requests, concurrent), daemon=True)
    client.start()
    theirs.close()
    try:
        found: Result | BaseException = ours.recv()
    except EOFError as error:
        raise messages.WrongAnswer("the client of the stream ended without a word") from error
    finally:
        client.join()
    if isinstance(found, BaseException):
        raise messages.WrongAnswer(f"the stream failed: {found}")
    return found


def _client(pipe: Connection, address: str, message: bytes, right: np.ndarray, requests: int, concurrent: int) -> None:
    try:
        pipe.send(asyncio.run(_streams(address, message, right, requests // STREAMS, concurrent // STREAMS)))
    except (Exception, SystemExit) as error:
        pipe.send(RuntimeError(str(error)))


async def _streams(address: str, message: bytes, right: np.ndarray, each: int, window: int) -> Result:
    answers: list[bytes] = []
    took: list[float] = []
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(PATH)
        await asyncio.wait_for(channel.channel_ready(), messages.DEADLINE_SECONDS)
        began = time.perf_counter()
        await asyncio.gather(*(_stream(method, message, each, window, answers, took) for _ in range(STREAMS)))
        seconds = time.perf_counter() - began
    for answer in answers:
        response = pb.PredictStreamResponse.FromString(answer)
        if response.WhichOneof("result") != "response":
            raise messages.WrongAnswer(f"an answer of the stream is an error: {response.error.message}")
        messages.compare(messages.predictions(response.response), right, "a stream")
    return Result(len(answers), seconds, sum(map(len, answers)) + 5 * len(answers), np.array(took))


async def _stream(  # type: ignore[no-untyped-def]
    method, message: bytes, each: int, window: int, answers: list[bytes], took: list[float]
) -> None:
    """Keeps `window` messages in flight until `each` are answered. A message's id is its place in the window."""
    call = method(timeout=messages.DEADLINE_SECONDS * 5)
    tail = pb.PredictStreamRequest(request=pb.PredictRequest.FromString(message)).SerializeToString()
    heads = [pb.PredictStreamRequest(id=f"{place:04d}").SerializeToString() for place in range(window)]
    sent, left = [0.0] * window, each
    for place in range(min(window, each)):
        sent[place], left = time.perf_counter(), left - 1
        await call.write(heads[place] + tail)
    for _ in range(each):
        answer = await call.read()
        if answer is grpc.aio.EOF:
            raise messages.WrongAnswer(f"the stream ended: {await call.code()} {await call.details()}")
        now, place = time.perf_counter(), int(answer[2:6])
        answers.append(answer)
        took.append(now - sent[place])
        if left:
            sent[place], left = now, left - 1
            await call.write(heads[place] + tail)
    await call.done_writing()
    if await call.read() is not grpc.aio.EOF:
        raise messages.WrongAnswer("the stream answered more than it was asked")
