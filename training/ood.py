"""How unlike the training data an input is: one number from the features, 1 at the threshold, more for stranger inputs.

Mahalanobis distance to the nearest class (Lee et al. 2018) of features of length 1 (Mueller & Hein, Mahalanobis++,
2025). Chosen by measurement among eight: docs/decisions/0019, `python -m training.ood_compare`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

METHOD = "Mahalanobis distance to the nearest class, of features of length 1"
ACCEPTED = 0.95  # of the validation part
FEWEST_VALIDATION = 100  # rows: 95 % of fewer is luck
ROWS_PER_FEATURE = 5  # of the training part: the covariance has as many directions as there are features
MOST_FEATURES = 1024  # the score costs their square
SHRINKAGE = 1e-3  # of the mean variance, added to each: a feature that never moved in training must not divide by 0
SHORTEST = 1e-6  # of a feature vector: a dead one is far from all, and not 0 / 0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detector:
    """The fitted score of features f [F]: the least squared distance of (f / |f| - mean) @ whiten to the centers [C,F].

    `whiten` [F,F] holds the threshold, too: a score over 1 is out of distribution.
    """

    mean: Floats
    whiten: Floats
    centers: Floats

    def scores(self, features: Floats) -> Floats:
        """The score [N] of each row of features [N,F]."""
        places = (unit(features) - self.mean) @ self.whiten
        least = np.full(len(places), np.inf)
        for center in self.centers:
            np.minimum(least, ((places - center) ** 2).sum(axis=1), out=least)
        return least

    def save(self, path: Path) -> None:
        """Write it for export."""
        np.savez(path, mean=self.mean, whiten=self.whiten, centers=self.centers)


def unit(features: Floats) -> Floats:
    """Each row of features [N,F], made of length 1."""
    scaled: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), SHORTEST)
    return scaled


def too_few(train: int, validation: int, features: int) -> str | None:
    """Why these many rows of so many features are not enough, or None where they are."""
    if features > MOST_FEATURES:
        return f"the last layer reads {features:,} features; the score is for {MOST_FEATURES:,} at most"
    if train < ROWS_PER_FEATURE * features:
        return f"{train:,} training rows are too few for {features:,} features; it takes {ROWS_PER_FEATURE} for each"
    if validation < FEWEST_VALIDATION:
        return f"{validation:,} validation rows are too few to set a threshold by; it takes {FEWEST_VALIDATION}"
    return None


def fit(train: Floats, labels: NDArray[np.int64], validation: Floats) -> Detector:
    """Fit class centers and their common covariance to features [N,F] of labels [N], the threshold to validation's."""
    rows = unit(train)
    mean = rows.mean(axis=0)
    rows -= mean
    present = np.unique(labels)
    centers = np.stack([rows[labels == label].mean(axis=0) for label in present])
    rows -= centers[np.searchsorted(present, labels)]
    covariance = rows.T @ rows / len(rows)
    covariance += max(SHRINKAGE * float(np.trace(covariance)) / len(covariance), 1e-12) * np.eye(len(covariance))
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    raw = Detector(mean, whiten, centers @ whiten)
    scale = 1 / np.sqrt(np.quantile(raw.scores(validation), ACCEPTED))
    return Detector(mean, whiten * scale, raw.centers * scale)


def auroc(usual: Floats, strange: Floats) -> float:
    """How well a score tells two groups apart: 1 always, 0.5 by chance."""
    from sklearn.metrics import roc_auc_score

    truth = np.concatenate([np.zeros(len(usual)), np.ones(len(strange))])
    return float(roc_auc_score(truth, np.concatenate([usual, strange])))


def judged(usual: Floats, strange: Floats) -> dict[str, Any]:
    """What the report says of one kind of strange inputs, by the scores of both; ready for JSON."""
    return {"rows": len(strange), "refused": float(np.mean(strange > 1)), "auroc": auroc(usual, strange)}
