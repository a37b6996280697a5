"""The twins must agree: Keras and ONNX Runtime, on the same rows, at many batch sizes, before anything is published."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .errors import FileFormatError, ParityError
from .names import OUTPUT, SCORE
from .wire import graph_sha256, read_metadata

TOLERANCE = 1e-5
"""The largest difference allowed in any probability. Sound exports stay under 1e-6; a wrong layer is off by 1e-2."""
SCORE_TOLERANCE = 1e-4
"""The same for the out-of-distribution score, whose threshold is 1; relative where the score is larger. A short feature
vector made 1 long brings its rounding with it; sound exports stay under 1e-5."""
BATCH_SIZES = (1, 2, 3, 7, 32, 128)
"""Besides "all at once". Odd ones, because kernels work in blocks of 4, 8 and 16 and treat the rest apart."""
LARGEST_BATCH_ELEMENTS = 1 << 24
"""No batch of more input elements than this is tried: large pictures would need more memory than machines have."""
CARD_KEY = "topclass.card"
CARD_SCHEMA = 1

Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One input and where it came from, such as "sample 17" or "all 255", for the words of a ParityError."""

    origin: str
    values: Array


def open_session(data: bytes) -> onnxruntime.InferenceSession:
    """Load a model on the CPU with one thread, quietly; FileFormatError if ONNX Runtime refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise FileFormatError(f"ONNX Runtime cannot load the model: {reason}") from error


def probes(inputs: Array) -> list[Row]:
    """Make a few rows that no validation set has, in the shape and dtype of `inputs` [n, ...].

    Pictures: black, white, a checkerboard and noise. Tables: zeros, each column's ends, and noise, none of it
    further out than half the data's range: far outside, logits are so large that float32 itself is over TOLERANCE.
    """
    shape, rng = inputs.shape[1:], np.random.default_rng(20_260_101)
    if inputs.dtype == np.uint8:
        checkers = (np.indices(shape)[:2].sum(axis=0) % 2 * 255).astype(np.uint8)
        return [
            Row("the picture of zeros", np.zeros(shape, np.uint8)),
            Row("the picture of 255s", np.full(shape, 255, np.uint8)),
            Row("the checkerboard", checkers),
            *(Row(f"noise {i}", rng.integers(0, 256, shape, np.uint8)) for i in range(4)),
        ]
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    half = (high - low) / 2
    noise = rng.uniform(low - half, high + half, (4, *shape)).astype(np.float32)
    return [
        Row("the row nearest to zeros", np.clip(np.zeros_like(low), low - half, high + half)),
        Row("the row of smallest values", low),
        Row("the row of largest values", high),
        *(Row(f"noise {i}", row) for i, row in enumerate(noise)),
    ]


def batch_sizes(rows: int, elements: int) -> list[int]:
    """Give the batch sizes to try on so many rows of so many elements: those that the rows can fill, and all."""
    largest = max(1, min(rows, LARGEST_BATCH_ELEMENTS // max(1, elements)))
    return sorted({*(size for size in BATCH_SIZES if size <= largest), largest})


def compare(
    data: bytes, rows: Sequence[Row], expected: NDArray[np.float32], scores: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Run all rows at every batch size against Keras' `expected` [rows, classes], and give the certificate's numbers.

    `scores` [rows] are what the output `ood_score` must be, where the graph has one.

    Raises ParityError, which names the worst row, if a probability is off by more than TOLERANCE or another class
    wins; except where Keras' own two best are closer than TOLERANCE, for there is nothing to agree on.
    `max_rel_difference` is taken relative to Keras' value, or to TOLERANCE where that is smaller.
    """
    session = open_session(data)
    inputs = np.stack([row.values for row in rows])
    sizes = batch_sizes(len(inputs), inputs[0].size)
    absolute = relative = strange = 0.0
    agreement = 1.0
    for size in sizes:
        given = run_in_batches(session, inputs, size)
        _check_rows(rows, expected, given, size)
        difference = np.abs(given - expected)
        absolute = max(absolute, float(difference.max()))
        relative = max(relative, float((difference / np.maximum(expected, TOLERANCE)).max()))
        agreement = min(agreement, float(np.mean(given.argmax(axis=1) == expected.argmax(axis=1))))
        if scores is not None:
            strange = max(strange, _compare_scores(rows, scores, run_in_batches(session, inputs, size, SCORE), size))
    return {
        "batch_sizes": sizes,
        "max_abs_difference": absolute,
        "max_rel_difference": relative,
        "argmax_agreement": agreement,
        "tolerance": TOLERANCE,
        **({} if scores is None else {"max_ood_difference": strange, "ood_tolerance": SCORE_TOLERANCE}),
        "provider": session.get_providers()[0],
    }


def score_differences(expected: Array, given: Array) -> Array:
    """How far scores [n] are off, relative to what is expected where that is over 1: they have no upper end."""
    return np.asarray(np.abs(given - expected) / np.maximum(1, np.abs(expected)))


def _compare_scores(rows: Sequence[Row], expected: Array, given: Array, size: int) -> float:
    if given.shape != expected.shape:
        raise ParityError(f"ONNX gives scores {list(given.shape)} at batch size {size}, Keras {list(expected.shape)}")
    difference = score_differences(expected, given)
    worst = int(difference.argmax())  # of NaN, if there is one
    if not difference[worst] <= SCORE_TOLERANCE:
        raise ParityError(
            f"the out-of-distribution scores of Keras and ONNX are {expected[worst]:.6g} and {given[worst]:.6g}, more "
            f"than {SCORE_TOLERANCE:g} apart, on {rows[worst].origin} at batch size {size}"
        )
    return float(difference[worst])


def run(session: onnxruntime.InferenceSession, inputs: Array, output: str = OUTPUT) -> NDArray[np.float32]:
    """Give an output of one batch, by default the probabilities [n, classes].

    FileFormatError if the model does not take it, or has no such output.
    """
    try:
        (given,) = session.run([output], {session.get_inputs()[0].name: inputs})
    except Exception as error:  # its errors have no common class of their own
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise FileFormatError(f"the model fails on inputs {inputs.dtype} {list(inputs.shape)}: {reason}") from error
    return np.asarray(given, np.float32)


def run_in_batches(
    session: onnxruntime.InferenceSession, inputs: Array, size: int, output: str = OUTPUT
) -> NDArray[np.float32]:
    """Run all rows; the last batch takes from the one before what it lacks, so that every batch has `size` rows."""
    outputs = []
    for start in range(0, len(inputs), size):
        first = max(0, min(start, len(inputs) - size))
        outputs.append(run(session, inputs[first : first + size], output)[start - first :])
    return np.concatenate(outputs)


def _check_rows(rows: Sequence[Row], expected: NDArray[np.float32], given: NDArray[np.float32], size: int) -> None:
    if given.shape != expected.shape:
        raise ParityError(f"ONNX gives {list(given.shape)} at batch size {size}, Keras {list(expected.shape)}")
    for who, values in (("Keras", expected), ("ONNX", given)):
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if broken.size:
            raise ParityError(f"{who} gives values that are not finite for {rows[broken[0]].origin}")
    difference = np.abs(given - expected).max(axis=1)
    worst = int(difference.argmax())
    if difference[worst] > TOLERANCE:
        raise ParityError(
            f"Keras and ONNX differ by {difference[worst]:.3g} (allowed: {TOLERANCE:g}) "
            f"on {rows[worst].origin} at batch size {size}"
        )
    best = np.sort(expected, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > TOLERANCE
    flipped = np.flatnonzero(clear & (given.argmax(axis=1) != expected.argmax(axis=1)))
    if flipped.size:
        row = int(flipped[0])
        raise ParityError(
            f"Keras and ONNX choose classes {expected[row].argmax()} and {given[row].argmax()} "
            f"for {rows[row].origin} at batch size {size}"
        )


def read_card(data: bytes) -> dict[str, Any]:
    """Give the card inside a file; FileFormatError if there is none that we can read."""
    text = read_metadata(data).get(CARD_KEY)
    if text is None:
        raise FileFormatError(f"the file has no card (metadata {CARD_KEY!r}): topclass did not write it")
    try:
        card = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileFormatError(f"the card is no JSON: {error}") from error
    if not isinstance(card, dict) or card.get("schema") != CARD_SCHEMA:
        schema = card.get("schema") if isinstance(card, dict) else None
        raise FileFormatError(f"the card has schema {schema!r}; expected {CARD_SCHEMA}")
    return card


def verify_file(data: bytes) -> dict[str, Any]:
    """Check a finished file against its own card and give that card.

    The graph must have the card's sha256, and the golden inputs their outputs on this machine.
    Raises FileFormatError for a file that is none of ours or has changed, ParityError for other outputs.
    """
    card = read_card(data)
    given = graph_sha256(data)
    stated = _entry(card, "certificate", "graph_sha256")
    if given != stated:
        raise FileFormatError(f"the graph has changed since it was verified: sha256 {given}, the card says {stated}")
    _check_golden(open_session(data), card)
    return card


def _check_golden(session: onnxruntime.InferenceSession, card: dict[str, Any]) -> None:
    inputs, expected = golden_of(card)
    given = run(session, inputs)
    if given.shape != expected.shape:
        raise ParityError(f"the golden inputs give {list(given.shape)}, the card says {list(expected.shape)}")
    difference = np.abs(given - expected).max(axis=1)
    worst = int(difference.argmax())
    if not difference[worst] <= TOLERANCE:
        raise ParityError(
            f"golden input {worst} gives a probability that is off by {difference[worst]:.3g} (allowed: {TOLERANCE:g})"
        )
    if (card.get("out_of_distribution") or {}).get("threshold") is not None:
        _check_golden_scores(run(session, inputs, SCORE), card)


def _check_golden_scores(given: Array, card: dict[str, Any]) -> None:
    try:
        expected = np.array(_entry(card, "golden", "ood_scores"), np.float32)
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"the card's golden scores cannot be read: {error}") from error
    if given.shape != expected.shape:
        raise ParityError(f"the golden inputs give scores {list(given.shape)}, the card says {list(expected.shape)}")
    difference = score_differences(expected, given)
    worst = int(difference.argmax())
    if not difference[worst] <= SCORE_TOLERANCE:
        raise ParityError(
            f"golden input {worst} gives an out-of-distribution score that is off by {difference[worst]:.3g} "
            f"(allowed: {SCORE_TOLERANCE:g})"
        )


def golden_of(card: dict[str, Any]) -> tuple[Array, NDArray[np.float32]]:
    """Give a card's golden inputs [n, ...] and their probabilities [n, classes]; FileFormatError if they are broken."""
    try:
        raw = base64.b64decode(_entry(card, "golden", "inputs_base64"), validate=True)
        inputs = np.frombuffer(raw, np.dtype(_entry(card, "golden", "dtype"))).reshape(_entry(card, "golden", "shape"))
        expected = np.array(_entry(card, "golden", "probabilities"), np.float32)
    except (binascii.Error, ValueError, TypeError) as error:
        raise FileFormatError(f"the card's golden inputs cannot be read: {error}") from error
    if expected.ndim != 2 or not len(inputs):
        raise FileFormatError("the card has no golden inputs")
    return inputs, expected


def _entry(card: dict[str, Any], part: str, key: str) -> Any:
    try:
        return card[part][key]
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"the card has no {part}.{key}") from error
