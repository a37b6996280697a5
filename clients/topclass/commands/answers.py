"""Asking for the rows of one chunk, so that one bad row costs nobody else the answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from topclass.commands.failures import Failed
from topclass.commands.sources import Chunk
from topclass.errors import InvalidInput, Overloaded
from topclass.results import Prediction, Result
from topclass.wire import Inputs

# The server counts within one request, which the reader of the table never sees.
_NUMBER = re.compile(r"(picture|row) \d+ ")


@dataclass(frozen=True)
class Answers:
    """For each row of a chunk its name and its prediction, or in words why there is none."""

    names: list[str]
    rows: list[Prediction | str]

    @property
    def failed(self) -> int:
        """How many rows have none."""
        return sum(isinstance(row, str) for row in self.rows)


def answer(ask: Callable[[Inputs], Result], chunk: Chunk) -> Answers:
    """Ask for the chunk. Each row that the server refuses by its number is set aside, and the rest asked again.

    What no row can be blamed for ends the command: Failed, or the error as it came.
    """
    inputs, kept, errors = _load(chunk)
    while kept:
        try:
            result = ask(inputs)
        except InvalidInput as error:
            if error.row is None or error.row >= len(kept):
                raise Failed(f"{_origin(chunk)}{error}") from None
            errors[kept.pop(error.row)] = _NUMBER.sub("", error.message)
            inputs = _without(inputs, error.row)
        except TypeError as error:
            raise Failed(f"{_origin(chunk)}{error}") from None
        except Overloaded as error:
            if error.retry_after is not None:
                raise
            raise Failed(f"{error}. Try a smaller --batch-size") from None
        else:
            return _merged(chunk, dict(zip(kept, result, strict=True)), errors)
    return _merged(chunk, {}, errors)


def _origin(chunk: Chunk) -> str:
    """The file of an array, as the beginning of a sentence; pictures have too many."""
    return f"{chunk.names[0].rpartition('[')[0]}: " if isinstance(chunk.inputs, np.ndarray) else ""


def _load(chunk: Chunk) -> tuple[Inputs, list[int], dict[int, str]]:
    """What to send, the rows of the chunk that this is, and why the others are missing."""
    if isinstance(chunk.inputs, np.ndarray):
        return chunk.inputs, list(range(len(chunk.inputs))), {}
    pictures: list[bytes] = []
    kept: list[int] = []
    errors: dict[int, str] = {}
    for row, path in enumerate(chunk.inputs):
        try:
            pictures.append(Path(path).read_bytes())
            kept.append(row)
        except OSError as error:
            errors[row] = f"cannot be read: {error.strerror}"
    return pictures, kept, errors


def _without(inputs: Inputs, row: int) -> Inputs:
    if isinstance(inputs, np.ndarray):
        return np.delete(inputs, row, axis=0)
    return [*inputs[:row], *inputs[row + 1 :]]


def _merged(chunk: Chunk, predictions: dict[int, Prediction], errors: dict[int, str]) -> Answers:
    found: dict[int, Prediction | str] = {**predictions, **errors}
    return Answers(chunk.names, [found[row] for row in range(len(chunk.names))])
