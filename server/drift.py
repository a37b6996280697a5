"""Whether the answers of now are distributed as those on held-out data were: the population stability index."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCKS = 12  # of a window, which slides by one of them
LEAST_ROWS = 500  # below, luck alone makes the index look like drift
MOST_BINS = 64  # classes beyond are one, so that a model of thousands makes no thousands of series
OTHER = "(other)"


@dataclass(frozen=True)
class Reference:
    """How a model answered on held-out data: rows by predicted class [C], and by confidence between bounds [B - 1]."""

    predicted: np.ndarray
    bounds: np.ndarray
    confidence: np.ndarray


def read_reference(document: dict[str, Any] | None, classes: int) -> Reference | None:
    """From a card's entry `reference`; None without one. ValueError, TypeError or KeyError where it is wrong."""
    if document is None:
        return None
    predicted, confidence = (_counts(document[key]) for key in ("predicted", "confidence"))
    bounds = np.array(document["confidence_bounds"], np.float64)
    if not (bounds.ndim == 1 and 0 < len(bounds) < MOST_BINS and (np.diff([0, *bounds, 1]) > 0).all()):
        raise ValueError("a reference whose confidence_bounds do not grow between 0 and 1")
    if len(predicted) != classes or len(confidence) != len(bounds) + 1:
        raise ValueError(f"a reference of {len(predicted)} classes and {len(confidence)} bins of confidence")
    return Reference(predicted, bounds, confidence)


def _counts(values: Any) -> np.ndarray:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 1 << 53 for value in values):
        raise TypeError("a reference's counts must be whole numbers")
    return np.array(values, np.float64)


def folded(counts: np.ndarray) -> np.ndarray:
    """Counts by class [C] as at most MOST_BINS: the last one is all further classes together."""
    if len(counts) <= MOST_BINS:
        return counts
    return np.append(counts[: MOST_BINS - 1], counts[MOST_BINS - 1 :].sum())


def psi(expected: np.ndarray, actual: np.ndarray) -> float:
    """The population stability index of two histograms over the same bins, counts [B]; 0 where they are alike.

    sum over bins of (a - e) * ln(a / e), with the shares a and e of each: Jeffreys' divergence of the two. Half a row
    is added to each bin of both, so that none is empty. Custom, from credit scoring, calls 0.1 a small and 0.25 a large
    shift (N. Siddiqi, Credit Risk Scorecards, Wiley 2006). Without any drift its mean is about (B - 1)(1/n + 1/m) for
    n and m rows (B. Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University 2018).
    """
    shares = [(counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (expected, actual)]
    e, a = shares
    return float(((a - e) * np.log(a / e)).sum())


class Window:
    """Counts [bins] over about the last `seconds`: BLOCKS blocks, the oldest of which is dropped when one is full."""

    def __init__(self, bins: int, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._block_seconds, self._clock = seconds / BLOCKS, clock
        self._blocks = np.zeros((BLOCKS, bins))
        self._now = self._block()

    def add(self, counts: np.ndarray) -> None:
        """Adds counts [bins] to the block of now."""
        self._slide()
        self._blocks[self._now % BLOCKS] += counts

    def total(self) -> np.ndarray:
        """The counts [bins] of all blocks that are young enough."""
        self._slide()
        total: np.ndarray = self._blocks.sum(axis=0)
        return total

    def _block(self) -> int:
        return math.floor(self._clock() / self._block_seconds)

    def _slide(self) -> None:
        block = self._block()
        for passed in range(self._now + 1, min(block, self._now + BLOCKS) + 1):
            self._blocks[passed % BLOCKS] = 0
        self._now = max(block, self._now)
