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
    second = {key: value for key, value in figures["per_class"][1].items() if key != "intervals"}
    assert second == {"label": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert figures["mse"] == pytest.approx(((ANSWERS - np.eye(3)[LABELS]) ** 2).mean())
    assert figures["log_loss"] == pytest.approx(-np.log([0.7, 0.5, 0.08, 0.35]).mean())
    assert figures["top_k"] == {"2": 0.75}


def test_the_worked_example() -> None:
    """Dogs at 1 3 4 5 8 9 of ten, TP 4, FP 3, TN 1, FN 2: accuracy 0.5, precision 0.57, recall 0.67."""
    truth = np.isin(np.arange(1, 11), [1, 3, 4, 5, 8, 9]).astype(np.int64)
    said = truth.copy()
    said[[0, 2]] = 0  # two dogs missed
    said[[1, 5, 6]] = 1  # three others taken for dogs
    answers = np.where(np.eye(2, dtype=bool)[said], 0.8, 0.2)
    figures = evaluate.measure(answers, truth, ["no dog", "dog"])
    assert figures["confusion"] == [[1, 3], [2, 4]]
    dog = figures["per_class"][1]
    assert figures["accuracy"] == 0.5
    assert round(dog["precision"], 2) == 0.57
    assert round(dog["recall"], 2) == 0.67
    assert dog["f1"] == pytest.approx(8 / 13)
    assert figures["ece"] == pytest.approx(0.3)


def test_bootstrap_intervals_hold_what_they_are_of() -> None:
    """Every figure but the calibration error, which chance makes larger, lies in its interval; the same each time."""
    random = np.random.default_rng(0)
    answers = random.dirichlet(np.ones(3), 400)
    labels = np.array([random.choice(3, p=row) for row in answers])
    figures = evaluate.measure(answers, labels, ["a", "b", "c"])
    whole = {**figures, "macro_f1": figures["macro"]["f1"]}
    for what in ("accuracy", "log_loss", "mse", "macro_f1"):
        low, high = figures["intervals"][what]
        assert low < whole[what] < high
    for each in figures["per_class"]:
        for what, (low, high) in each["intervals"].items():
            assert low < each[what] < high
    # Of 400 rows an accuracy of about one half is known to about five points, as Wilson says, too.
    assert figures["intervals"]["accuracy"] == pytest.approx(figures["accuracy_interval"], abs=0.01)
    assert evaluate.bootstrap(answers, labels)[0] == figures["intervals"]


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
