"""Whether a network's 90 % are right nine times of ten, and the one number that makes it so: the temperature.

Guo et al., On Calibration of Modern Neural Networks, 2017. Dividing the logits by a temperature moves no class past
another; it only makes all answers surer (below 1) or less sure (above 1).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
FEWEST_ROWS = 50  # below, the temperature would be luck
# Beyond, float32 probabilities no longer hold what the logits were, and export could not prove its graph.
COLDEST, HOTTEST = 0.2, 5.0
_SMALLEST = 1e-38


@dataclass(frozen=True)
class Reliability:
    """Answers by how sure they were, in BINS steps of 0 to 1: how many, how sure, how often right; [BINS] each."""

    rows: NDArray[np.int64]
    sure: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """The expected calibration error: how far sureness is from being right, weighed by rows."""
        return float((np.abs(self.sure - self.right) * self.rows).sum() / self.rows.sum())

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Reliability":
        """What `as_json` gave."""
        return cls(np.array(found["rows"]), np.array(found["sure"]), np.array(found["right"]))

    def as_json(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {"rows": self.rows.tolist(), "sure": self.sure.tolist(), "right": self.right.tolist()}


def reliability(answers: NDArray[np.float64], labels: NDArray[np.int64]) -> Reliability:
    """Sort the rows of probabilities [N,C] into bins by that of the class said; empty bins are 0."""
    sure, right = answers.max(axis=1), answers.argmax(axis=1) == labels
    bins = bin_of(sure)
    rows = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=values, minlength=BINS) / np.maximum(rows, 1) for values in (sure, right)]
    return Reliability(rows, sums[0], sums[1])


def bin_of(sure: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each probability [N]; 1 belongs to the last."""
    bins: NDArray[np.int64] = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    return bins


def tempered(answers: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """softmax(logits / temperature) of probabilities [N,C]: their logarithms are the logits but for a constant."""
    if temperature == 1:
        return answers
    logits = np.log(np.maximum(answers, _SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def temperature(answers: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature of the least log loss on rows the network did not learn from, best FEWEST_ROWS or more."""
    from scipy.optimize import minimize_scalar  # here: --help and bad data need not pay for it

    rows = np.arange(len(labels))

    def loss(power: float) -> float:
        return float(-np.log(np.maximum(tempered(answers, float(np.exp(power)))[rows, labels], _SMALLEST)).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))
