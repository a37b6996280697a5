"""What a classifier's answers are worth; scikit-learn does the counting, resampling says how far luck can move it."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import calibrate
from training.errors import DivergedError

TOP_K = (2, 3, 5)
RESAMPLES = 1000
_SEED = 20170


def probabilities(model: Any, inputs: NDArray[Any]) -> NDArray[np.float64]:
    """The model's answers [N,C], each row adding up to 1; a lone sigmoid p becomes the columns 1-p and p.

    Raises DivergedError where they are not finite.
    """
    answers = np.asarray(model.predict(inputs, batch_size=1024, verbose=0), dtype=np.float64)
    if not np.isfinite(answers).all():
        raise DivergedError("the network's answers are not finite: the fit ran away; try a lower --learning-rate")
    if answers.shape[1] == 1:
        answers = np.hstack([1 - answers, answers])
    shares: NDArray[np.float64] = answers / answers.sum(axis=1, keepdims=True)
    return shares


def measure(answers: NDArray[np.float64], labels: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Every figure of the report, ready for JSON, from answers [N,C] and the true labels [N].

    A class that has no row, or is never said, counts 0 where its figure is not defined.
    """
    from sklearn import metrics  # here: a second that --help and bad data need not pay

    classes = list(range(len(names)))
    said = answers.argmax(axis=1)
    accuracy = float(metrics.accuracy_score(labels, said))
    each = metrics.precision_recall_fscore_support(labels, said, labels=classes, zero_division=0)
    found = calibrate.reliability(answers, labels)
    intervals, class_intervals = bootstrap(answers, labels)
    return {
        "rows": len(labels),
        "errors": int((said != labels).sum()),
        "accuracy": accuracy,
        "accuracy_interval": list(wilson_interval(accuracy, len(labels))),
        "log_loss": float(metrics.log_loss(labels, answers, labels=classes)),
        "mse": float(metrics.mean_squared_error(np.eye(len(names))[labels], answers)),
        "ece": found.ece,
        "intervals": intervals,
        "reliability": found.as_json(),
        "top_k": {
            str(k): float(metrics.top_k_accuracy_score(labels, answers, k=k, labels=classes))
            for k in TOP_K
            if k < len(names)
        },
        "macro": {
            what: float(np.mean(values)) for what, values in zip(("precision", "recall", "f1"), each[:3], strict=True)
        },
        "per_class": [
            {
                "label": name,
                "precision": float(p),
                "recall": float(r),
                "f1": float(f),
                "support": int(support),
                "intervals": interval,
            }
            for name, p, r, f, support, interval in zip(names, *each, class_intervals, strict=True)
        ],
        "confusion": metrics.confusion_matrix(labels, said, labels=classes).tolist(),
    }


def bootstrap(
    answers: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[dict[str, list[float]], list[dict[str, list[float]]]]:
    """95 % intervals of figures of the whole, and of each class, from RESAMPLES draws of as many rows, with repeats.

    Efron's percentile method. Where every row is right no draw has a mistake: for the accuracy there is Wilson's, too.
    """
    random = np.random.RandomState(_SEED)
    rows, classes = answers.shape
    said, sure = answers.argmax(axis=1), answers.max(axis=1)
    cell, bins, right = labels * classes + said, calibrate.bin_of(sure), said == labels
    # scikit-learn's log loss holds probabilities off 0 by the same number
    surprise = -np.log(np.maximum(answers[np.arange(rows), labels], np.finfo(np.float64).eps))
    error = ((answers - np.eye(classes)[labels]) ** 2).mean(axis=1)
    whole, each = [], []
    for _ in range(RESAMPLES):
        times = np.bincount(random.randint(0, rows, rows), minlength=rows)
        matrix = np.bincount(cell, weights=times, minlength=classes * classes).reshape(classes, classes)
        gap = np.bincount(bins, weights=times * (sure - right), minlength=calibrate.BINS)
        precision, recall = (_shares(np.diag(matrix), matrix.sum(axis=axis)) for axis in (0, 1))
        f1 = _shares(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))
        each.append((precision, recall, f1))
        whole.append((times @ right, times @ surprise, times @ error, np.abs(gap).sum(), f1.mean() * rows))
    ends = np.quantile(np.array(whole) / rows, (0.025, 0.975), axis=0).T.tolist()
    class_ends = np.quantile(np.array(each), (0.025, 0.975), axis=0).transpose(2, 1, 0).tolist()
    return (
        dict(zip(("accuracy", "log_loss", "mse", "ece", "macro_f1"), ends, strict=True)),
        [dict(zip(("precision", "recall", "f1"), of_class, strict=True)) for of_class in class_ends],
    )


def _shares(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Part by whole, 0 where the whole is 0: as scikit-learn does with zero_division=0."""
    shares: NDArray[np.float64] = part / np.maximum(whole, 1)
    return shares


def wilson_interval(accuracy: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy measured on so many rows: how far luck alone can move it."""
    z = 1.959964
    middle = (accuracy + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * sqrt(accuracy * (1 - accuracy) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - half), min(1.0, middle + half)


def worst_mistakes(
    answers: NDArray[np.float64], labels: NDArray[np.int64], count: int
) -> list[tuple[int, int, int, float]]:
    """The wrong rows, surest first: (row, true class, class said, probability of the class said)."""
    said = answers.argmax(axis=1)
    sure = answers.max(axis=1)
    wrong = np.flatnonzero(said != labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:count]
    return [(int(row), int(labels[row]), int(said[row]), float(sure[row])) for row in order]
