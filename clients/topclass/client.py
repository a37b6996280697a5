"""The client for threads: numpy in, numpy out. The rules of a call are in calls.py; here they are carried out."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc

from topclass import calls
from topclass.calls import Call, Caller, Deadline, LabelStore, Pause, Send
from topclass.results import ModelDetails, ModelInfo, Result
from topclass.target import OPTIONS, Target
from topclass.windows import LiveCalls, in_order
from topclass.wire import Inputs, Query

T = TypeVar("T")


class Client:
    """Calls a topclass server. Threads may share it; a process that forks must make its own after the fork.

    `timeout` is in seconds and covers a whole call, its retries included; each method can have its own. A call is
    tried again, at most `retries` times, only where the server is unavailable or says that it is full and when to
    come back. `root_certificates` (PEM, as bytes or as a path) turn TLS on; `token` is sent with every call, in the
    clear without TLS. Every error of a call is a TopclassError.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        *,
        timeout: float = 30.0,
        retries: int = 5,
        root_certificates: bytes | str | Path | None = None,
        token: str | None = None,
    ):
        target = Target.of(address, root_certificates, token)
        self._timeout = timeout
        self._metadata = target.metadata
        self._caller = Caller(address, retries)
        self._store = LabelStore()
        self._closed = threading.Event()
        self._channel = (
            grpc.secure_channel(address, target.credentials, options=OPTIONS)
            if target.credentials
            else grpc.insecure_channel(address, options=OPTIONS)
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]]
        self._methods = {name: self._channel.unary_unary(name) for name in calls.METHODS}

    def predict(
        self,
        inputs: Inputs,
        model: str = "",
        *,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
    ) -> Result:
        """Classify one batch.

        `inputs` are an array, uint8 pictures [N, H, W] or [N, H, W, C] or rows of numbers [N, F] (float64 is rounded
        to float32), or a list of picture files, each a path or bytes; the server decodes them. An empty `model` is
        the only one served; version 0 is the one that answers by default, and an `alias` such as "previous" names
        one instead. A `sha256` pins the model file: ModelChanged if another would
        answer. `top_k` ranks so many classes of each row; `probabilities=False` leaves the matrix out.
        `priority` 0 goes first in the server's queue, 9 last: bulk work leaves the fast lane to others by a higher one.
        Raises TypeError for inputs that cannot be sent, OSError for files that cannot be read, TopclassError else.
        """
        query = Query(model, version, alias, sha256, top_k, probabilities, priority)
        return self._run(calls.predict(self._caller, self._store, inputs, query, self._deadline(timeout)))

    def predict_many(
        self,
        batches: Iterable[Inputs],
        model: str = "",
        *,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
    ) -> Generator[Result, None, None]:
        """Classify many batches, at most `window` at once; the results come in the order of the batches.

        A batch is taken from `batches` only when there is room for it. `timeout` is that of each batch. The first
        error ends it, and closing the iterator cancels what is in progress.
        """
        query = Query(model, version, alias, sha256, top_k, probabilities, priority)
        live = LiveCalls()

        def work(batch: Inputs) -> Result:
            return self._run(calls.predict(self._caller, self._store, batch, query, self._deadline(timeout)), live)

        return in_order(work, batches, window, live.cancel)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every version of every model that the server knows, the broken ones too."""
        return self._run(calls.models(self._caller, self._deadline(timeout)))

    def model(self, name: str = "", version: int = 0, *, timeout: float | None = None) -> ModelDetails:
        """One model: its labels, what it takes, its card. Empty: the only one served; 0: the version that answers."""
        return self._run(calls.model(self._caller, name, version, self._deadline(timeout)))

    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """What the server says of itself: "serving", "not serving" or "unknown". TopclassError if it says nothing."""
        return self._run(calls.health(self._caller, service, self._deadline(timeout)))

    def healthy(self, service: str = "", *, timeout: float | None = None) -> bool:
        """True if the server is serving; False if it says otherwise, or does not answer."""
        return self._run(calls.healthy(self._caller, service, self._deadline(timeout)))

    def wait_ready(self, timeout: float | None = None, service: str = "") -> None:
        """Return once the server is serving; Unavailable, with its last answer, if that takes over `timeout` s."""
        return self._run(calls.wait_ready(self._caller, service, self._deadline(timeout)))

    def close(self) -> None:
        """Close the connection; calls in progress, in other threads, are cancelled."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _run(self, steps: Call[T], live: LiveCalls | None = None) -> T:
        """Carry out the steps of a call, one after the other, and return what it returns."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step, live)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _do(self, step: Send | Pause, live: LiveCalls | None) -> bytes:
        if isinstance(step, Pause):
            (live.pause if live else self._closed.wait)(step.seconds)
            return b""
        if self._closed.is_set():
            raise ValueError("this client is closed")
        method = self._methods[step.method]
        if live is None:
            answer: bytes = method(step.request, timeout=step.timeout, metadata=self._metadata)
            return answer
        return live.wait_for(method.future(step.request, timeout=step.timeout, metadata=self._metadata))
