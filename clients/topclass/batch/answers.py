"""From chunks to answers, by servers: one bad row costs nobody else the answer, and every row has one or a reason."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topclass.batch.chunk import Chunk, Inputs, Numbered
from topclass.batch.failures import Failed
from topclass.client import Client
from topclass.errors import InvalidInput, Overloaded
from topclass.results import ModelDetails, Ranked, Result

# The server counts within one request, which the reader of the table never sees.
_NUMBER = re.compile(r"\b(?:the )?(?:picture|row)(?: \d+)? ")


@dataclass(frozen=True)
class Values:
    """What the model says of M rows; see Result for the fields."""

    top_class: NDArray[np.int64]
    probability: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    top_k: tuple[tuple[Ranked, ...], ...]
    ood_score: NDArray[np.float32] | None
    out_of_distribution: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.top_class)


@dataclass(frozen=True)
class Answered:
    """A chunk and its answers: `values` has those of the rows that are not in `errors`, in order."""

    chunk: Chunk
    errors: dict[int, str]
    values: Values

    @property
    def good(self) -> list[int]:
        """The rows that have an answer."""
        return [row for row in range(len(self.chunk.names)) if row not in self.errors]


@dataclass(frozen=True)
class Asking:
    """The model file that answers, and what it is asked for."""

    details: ModelDetails
    top_k: int = 0
    probabilities: bool = True
    window: int = 8
    priority: int = 0

    def options(self) -> dict[str, Any]:
        """For Client.predict_many."""
        return {
            "model": self.details.name,
            "version": self.details.version,
            "sha256": self.details.sha256,
            "top_k": self.top_k,
            "probabilities": self.probabilities,
            "priority": self.priority,
            "on_error": "return",
        }


def by_servers(client: Client, chunks: Iterable[Chunk], asking: Asking) -> Generator[Answered, None, None]:
    """The chunks in their order, each with its answers, `window` requests in flight.

    What no row can be blamed for ends it: Failed, or the error as it came.
    """
    waiting: deque[Chunk] = deque()

    def inputs() -> Iterator[Inputs]:
        for chunk in chunks:
            waiting.append(chunk)
            if len(chunk.inputs):
                yield chunk.inputs

    outcomes: Any = client.predict_many(inputs(), **asking.options(), window=asking.window)
    with closing(outcomes):
        for outcome in outcomes:
            while not len(waiting[0].inputs):
                yield _without_answers(waiting.popleft(), asking)
            yield _settled(client, waiting.popleft(), outcome, asking)
        while waiting:
            yield _without_answers(waiting.popleft(), asking)


def _settled(client: Client, chunk: Chunk, outcome: Any, asking: Asking) -> Answered:
    if isinstance(outcome, Result):
        return Answered(chunk, chunk.errors, _of_result(outcome))
    by_row = isinstance(outcome, InvalidInput) and outcome.row is not None
    too_large = isinstance(outcome, Overloaded) and outcome.retry_after is None
    if not by_row and not too_large:
        if isinstance(outcome, (InvalidInput, TypeError)):
            raise Failed(f"{_origin(chunk)}{outcome}")
        raise outcome
    items: Any = list(chunk.inputs)
    with closing(client.predict_many(items, **asking.options(), batch_size=len(items), window=1)) as outcomes:
        found = list(outcomes)
    errors = dict(chunk.errors)
    kept: list[Any] = []
    for row, one in zip(chunk.good, found, strict=True):
        if isinstance(one, InvalidInput) or (isinstance(one, Overloaded) and one.retry_after is None):
            errors[row] = _NUMBER.sub("", str(one), count=1)
        elif isinstance(one, Exception):
            raise one
        else:
            kept.append(one)
    return Answered(chunk, errors, _of_predictions(kept, asking))


def _origin(chunk: Chunk) -> str:
    """The file of an array, as the beginning of a sentence; pictures have too many."""
    return f"{chunk.names.path}: " if isinstance(chunk.names, Numbered) else ""


def _without_answers(chunk: Chunk, asking: Asking) -> Answered:
    return Answered(chunk, chunk.errors, _of_predictions([], asking))


def _of_result(result: Result) -> Values:
    return Values(
        result.top_class,
        result.probability,
        result.probabilities,
        result.top_k,
        result.ood_score,
        result.out_of_distribution,
    )


def _of_predictions(rows: list[Any], asking: Asking) -> Values:
    classes = len(asking.details.labels) if asking.probabilities else 0
    scores = [row.ood_score for row in rows]
    return Values(
        np.array([row.top_class for row in rows], np.int64),
        np.array([row.probability for row in rows], np.float32),
        np.array([row.probabilities for row in rows], np.float32).reshape(len(rows), classes),
        tuple(row.top_k for row in rows),
        np.array(scores, np.float32) if scores and scores[0] is not None else None,
        np.array([row.out_of_distribution for row in rows], np.bool_),
    )
