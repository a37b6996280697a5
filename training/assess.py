"""The end of every training: how good the network is, how honest, and what it does not know. It trains nothing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import calibrate, evaluate, features, ood, strange
from training.data import Dataset

STRANGE_ROWS = 1000  # of each kind
_SEED = 20170


@dataclass(frozen=True)
class Assessment:
    """All that is known of a trained network; the figures are ready for JSON and belong to calibrated answers.

    answers: the test part's probabilities [N,C], calibrated. detector: None where there is no score; `strangeness`
    says why. scores: of the test part [N] and of each kind of strange inputs, for the report.
    """

    validation: dict[str, Any]
    test: dict[str, Any]
    answers: NDArray[np.float64]
    calibration: dict[str, Any]
    strangeness: dict[str, Any]
    detector: ood.Detector | None
    scores: dict[str, NDArray[np.float64]]

    @property
    def temperature(self) -> float:
        """What the logits are divided by; 1 where nothing was fitted."""
        return float(self.calibration["temperature"])


def as_they_are(
    validation: dict[str, Any], test: dict[str, Any], answers: NDArray[np.float64], reason: str
) -> Assessment:
    """The figures of a network that is neither calibrated nor given a score, and why not."""
    calibration = {"fitted": False, "temperature": 1.0, "reason": reason}
    return Assessment(validation, test, answers, calibration, {"threshold": None, "reason": reason}, None, {})


def assess(model: Any, dataset: Dataset) -> Assessment:
    """Judge a fitted Keras model: temperature and threshold by the validation part, figures by the test part."""
    guesses = evaluate.probabilities(model, dataset.validation.inputs)
    raw = evaluate.probabilities(model, dataset.test.inputs)  # once, here, and never to choose anything
    temperature, reason = 1.0, _no_temperature(model, dataset)
    if not reason:
        temperature = calibrate.temperature(guesses, dataset.validation.labels)
    answers, guesses = (calibrate.tempered(each, temperature) for each in (raw, guesses))
    test = evaluate.measure(answers, dataset.test.labels, dataset.labels)
    before = calibrate.reliability(raw, dataset.test.labels)
    detector, scores, strangeness = _strangeness(model, dataset)
    return Assessment(
        validation=evaluate.measure(guesses, dataset.validation.labels, dataset.labels),
        test=test,
        answers=answers,
        calibration={
            "fitted": not reason,
            "temperature": temperature,
            **({"reason": reason} if reason else {}),
            "ece_before": before.ece,
            "ece_after": test["ece"],
            "reliability_before": before.as_json(),
        },
        strangeness=strangeness,
        detector=detector,
        scores=scores,
    )


def _no_temperature(model: Any, dataset: Dataset) -> str:
    """Why the answers stay as they are; empty where nothing speaks against a temperature."""
    if features.last_function(model) != "softmax":
        return "the network does not end in a softmax"
    if len(dataset.validation) < calibrate.FEWEST_ROWS:
        return f"{len(dataset.validation)} validation rows are too few; it takes {calibrate.FEWEST_ROWS}"
    return ""


def _strangeness(
    model: Any, dataset: Dataset
) -> tuple[ood.Detector | None, dict[str, NDArray[np.float64]], dict[str, Any]]:
    found = features.find(model)
    if isinstance(found, str):
        return None, {}, {"threshold": None, "reason": found}
    reason = ood.too_few(len(dataset.train), len(dataset.validation), found.size)
    if reason:
        return None, {}, {"threshold": None, "reason": reason}
    validation = found.of(dataset.validation.inputs)
    detector = ood.fit(found.of(dataset.train.inputs), dataset.train.labels, validation)
    scores = {
        kind: detector.scores(found.of(inputs))
        for kind, inputs in {"test": dataset.test.inputs, **_strange_inputs(dataset)}.items()
    }
    usual = scores["test"]
    return detector, scores, {
        "threshold": 1.0,
        "method": ood.METHOD,
        "layer": found.layer,
        "pooled": found.pooled,
        "features": found.size,
        "accepted": {
            "validation": float(np.mean(detector.scores(validation) <= 1)),
            "test": float(np.mean(usual <= 1)),
        },
        "strange": {kind: ood.judged(usual, values) for kind, values in scores.items() if kind != "test"},
    }  # fmt: skip


def _strange_inputs(dataset: Dataset) -> dict[str, NDArray[Any]]:
    random = np.random.RandomState(_SEED)
    usual = dataset.test.inputs[random.permutation(len(dataset.test))[:STRANGE_ROWS]]
    if dataset.is_table:
        return dict(strange.rows_of(usual, random))
    return {kind: make(usual, random) for kind, make in strange.KNOWN.items()}
