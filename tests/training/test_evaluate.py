"""The figures of a report."""

from typing import Any

import numpy as np
import pytest

from training import evaluate
from training.errors import DivergedError

ANSWERS = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.12, 0.8, 0.08], [0.4, 0.35, 0.25]])
LABELS = np.array([0, 1, 2, 1])


class Model:
    """Answers what it was given."""

    def __init__(self, answers: Any) -> None:
        self.answers = np.asarray(answers)

    def predict(self, inputs: Any, batch_size: int, verbose: int) -> Any:
        """As Keras' own."""
        assert len(inputs) == len(self.answers)
        assert (batch_size, verbose) == (1024, 0)
        return self.answers


def test_the_figures_of_a_small_case() -> None:
    """Accuracy, errors, confusion, per-class figures and log loss are what one counts by hand."""
    figures = evaluate.measure(ANSWERS, LABELS, ["a", "b", "c"])
    assert figures["accuracy"] == 0.5
    assert figures["errors"] == 2
    assert figures["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert figures["per_class"][1] == {"label": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert figures["log_loss"] == pytest.approx(-np.log([0.7, 0.5, 0.08, 0.35]).mean())
    assert figures["top_k"] == {"2": 0.75}


def test_a_class_absent_from_the_test_part_counts_zero() -> None:
    """Two classes seen of three still give three rows, and no warning stops the run."""
    figures = evaluate.measure(ANSWERS[:2], LABELS[:2], ["a", "b", "c"])
    assert figures["per_class"][2]["support"] == 0
    assert figures["per_class"][2]["recall"] == 0.0


def test_the_interval_holds_the_accuracy() -> None:
    """The 95 % interval is Wilson's: 0.9 on 100 rows may be 0.826 to 0.945, and 1 stays below certainty."""
    assert evaluate.wilson_interval(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert evaluate.wilson_interval(1.0, 10)[0] < 0.75


def test_mistakes_come_surest_first() -> None:
    """Only wrong rows are listed, and the one that was surest leads."""
    assert evaluate.worst_mistakes(ANSWERS, LABELS, 5) == [(2, 2, 1, 0.8), (3, 1, 0, 0.4)]
    assert evaluate.worst_mistakes(ANSWERS, LABELS, 1) == [(2, 2, 1, 0.8)]


def test_a_lone_sigmoid_becomes_two_columns() -> None:
    """A [N,1] answer p is the probability of class 1."""
    assert evaluate.probabilities(Model([[0.25]]), np.zeros((1, 2))).tolist() == [[0.75, 0.25]]


def test_answers_that_are_not_finite_end_the_run() -> None:
    """NaN in the answers is a fault with a hint, not a figure."""
    with pytest.raises(DivergedError, match=r"not finite.*lower --learning-rate"):
        evaluate.probabilities(Model([[np.nan, 1.0]]), np.zeros((1, 2)))
