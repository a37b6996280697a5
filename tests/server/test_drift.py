"""The population stability index, its window, and what a card says of held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import card as export_card
from server.drift import BLOCKS, LEAST_ROWS, MOST_BINS, Window, folded, psi, read_reference
from server.quality import Answers
from tests import models
from tests.conftest import LiveServer
from tests.server.test_metrics import scrape
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb

Serve = Callable[..., LiveServer]


def reference(rows: int = 1000) -> dict[str, Any]:
    """What the exporter writes of `models.classifier`'s answers to noise."""
    noise = np.random.default_rng(7).integers(0, 256, (rows, models.SIDE, models.SIDE), np.uint8)
    return export_card.reference(models.expected(noise))


def test_the_index_is_the_one_of_the_books() -> None:
    """It is the sum of (a - e) ln(a / e), with half a row in each bin; 0 for the same shares; finite for empty bins."""
    by_hand = (0.3 - 0.5) * math.log(0.3 / 0.5) + (0.7 - 0.5) * math.log(0.7 / 0.5)
    assert psi(np.array([5e9, 5e9]), np.array([3e9, 7e9])) == pytest.approx(by_hand, rel=1e-6)
    assert psi(np.array([10.0, 20.0]), np.array([10.0, 20.0])) == 0
    assert 5 < psi(np.array([1000.0, 0.0]), np.array([0.0, 1000.0])) < 20


def test_without_drift_the_index_is_as_small_as_luck_makes_it() -> None:
    """Its mean over samples of one distribution is about (bins - 1)(1/n + 1/m)."""
    random, shares = np.random.default_rng(0), np.full(10, 0.1)
    seen = [psi(random.multinomial(1000, shares), random.multinomial(500, shares)) for _ in range(400)]
    assert np.mean(seen) == pytest.approx(9 * (1 / 1000 + 1 / 500), rel=0.1)


def test_a_window_forgets_what_is_older_than_it() -> None:
    """Rows stay for a window's time, less a block, and are gone after it; also where nothing came meanwhile."""
    now = [0.0]
    window = Window(2, BLOCKS * 10, lambda: now[0])
    window.add(np.array([1, 2]))
    now[0] = (BLOCKS - 1) * 10 + 9.0
    window.add(np.array([10, 0]))
    assert window.total().tolist() == [11, 2]
    now[0] = BLOCKS * 10
    assert window.total().tolist() == [10, 0]
    now[0] = 1e6
    assert window.total().tolist() == [0, 0]


def test_many_classes_are_few_bins() -> None:
    """A thousand classes are MOST_BINS, the last of which has all that the others have not."""
    counts = np.arange(1000.0)
    assert len(folded(counts)) == MOST_BINS
    assert folded(counts).sum() == counts.sum()
    assert folded(counts[:MOST_BINS]) is not counts
    assert folded(counts[:MOST_BINS]).tolist() == counts[:MOST_BINS].tolist()


def test_what_the_exporter_writes_the_server_reads() -> None:
    """Classes and confidences are counted over all rows, in the bins that both name."""
    probabilities = np.array([[0.2, 0.8], [0.5, 0.5], [0.9995, 0.0005], [0.0, 1.0]], np.float32)
    read = read_reference(export_card.reference(probabilities), 2)
    assert read is not None
    assert read.predicted.tolist() == [2, 2]
    assert read.confidence.tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 2]
    assert read_reference(None, 2) is None


GOOD = {"predicted": [1, 2], "confidence": [1, 2], "confidence_bounds": [0.5]}
WRONG = {
    "no counts": GOOD | {"predicted": "12"},
    "half a row": GOOD | {"predicted": [1.5, 2]},
    "less than none": GOOD | {"confidence": [-1, 4]},
    "a class too few": GOOD | {"predicted": [3]},
    "a bin too many": GOOD | {"confidence": [1, 1, 1]},
    "no bounds": GOOD | {"confidence_bounds": [], "confidence": [3]},
    "bounds that fall": GOOD | {"confidence_bounds": [0.9, 0.5], "confidence": [1, 1, 1]},
    "no number": GOOD | {"confidence_bounds": [math.nan]},
    "beyond 1": GOOD | {"confidence_bounds": [1.5]},
    "something missing": {"predicted": [1, 2]},
    "a list": [1, 2],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_reference_is_refused(case: str) -> None:
    """Whatever is wrong, it is one of the faults that the card's reader makes a refusal of."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_reference(WRONG[case], 2)  # type: ignore[arg-type]


def test_a_card_with_a_wrong_reference_is_refused_in_words(repository: Path, serve: Serve) -> None:
    """The version is listed with the reason, and the one before answers."""
    wrong = models.with_card(models.classifier(), reference=reference() | {"predicted": [1]})
    models.put(repository, "pets", 2, wrong)
    server = serve(models=repository)
    [entry] = [entry for entry in server.app.repository.entries() if entry.version == 2]
    assert "its card cannot be read: ValueError: a reference of 1 classes" in entry.reason


def test_drift_is_told_of_enough_rows_and_grows_when_the_answers_change(repository: Path, serve: Serve) -> None:
    """Below LEAST_ROWS there is no index; for rows as those of the reference it is small; for others it is large."""
    models.put(repository, "pets", 2, models.with_card(models.classifier(), reference=reference()))
    server = serve(models=repository, http_port=0)
    noise = np.random.default_rng(8).integers(0, 256, (2000, models.SIDE, models.SIDE), np.uint8)
    server.stub.Predict(pb.PredictRequest(tensor=tensor(noise[: LEAST_ROWS - 1])))
    told = scrape(server)
    at = {"model": "pets", "version": "2"}
    assert told.of("drift_rows", **at) == LEAST_ROWS - 1
    assert told.of("drift_psi", **at, of="class") is None
    server.stub.Predict(pb.PredictRequest(tensor=tensor(noise[LEAST_ROWS:])))
    told = scrape(server)
    for of in ("class", "confidence"):
        assert 0 < (told.of("drift_psi", **at, of=of) or 0) < 0.05
    server.stub.Predict(pb.PredictRequest(tensor=tensor(np.zeros((4000, models.SIDE, models.SIDE), np.uint8))))
    told = scrape(server)
    for of in ("class", "confidence"):
        assert (told.of("drift_psi", **at, of=of) or 0) > 0.25
    assert told.of("drift_rows", model="pets", version="1") is None
    assert "topclass_window_rows" not in told.text


def test_answers_are_counted_by_class_and_confidence(repository: Path, serve: Serve) -> None:
    """Each row is in the series of the class that was said, and in the histogram of its probability."""
    server = serve(models=repository, http_port=0, workers=1)
    rows = pictures(300)
    answers = models.expected(rows)
    for some in np.split(rows, [1, 3, 50]):
        server.stub.Predict(pb.PredictRequest(tensor=tensor(some)))
    told = scrape(server)
    at = {"model": "pets", "version": "1"}
    said = np.bincount(answers.argmax(axis=1), minlength=3)
    counted = [told.of("predicted_rows_total", **at, **{"class": label}) or 0 for label in models.LABELS]
    assert counted == said.tolist()
    assert told.of("confidence_ratio_count", **at) == 300
    assert told.of("confidence_ratio_sum", **at) == pytest.approx(answers.max(axis=1).sum(), rel=1e-4)
    below = float((answers.max(axis=1) <= 0.5).sum())
    assert told.of("confidence_ratio_bucket", **at, le="0.5") == below


def test_a_model_of_thousands_of_classes_makes_few_series(repository: Path, serve: Serve) -> None:
    """The first classes have a series each, all others one, whose name no label can be mistaken for."""
    models.put(repository, "many", 1, models.classifier(classes=3000))
    server = serve(models=repository, http_port=0)
    server.stub.Predict(pb.PredictRequest(model="many", tensor=tensor(pictures(2000))))
    told = scrape(server)
    series = {
        dict(labels)["class"]: value
        for (name, labels), value in told.samples.items()
        if name == "topclass_predicted_rows_total" and dict(labels)["model"] == "many"
    }
    assert len(series) == MOST_BINS
    assert sum(series.values()) == 2000
    assert series["(other)"] > 1000


def test_scores_are_counted_where_a_model_has_them(repository: Path, serve: Serve) -> None:
    """Of answers with one more column, it is the score; what is over the threshold is counted, NaN is nowhere."""
    server = serve(models=repository, http_port=0)
    assert server.app.metrics
    tell = server.app.metrics.lane("odd", 1, Answers(("a", "b"), threshold=2.0))
    tell([], np.array([[0.9, 0.1, 1.0], [0.2, 0.8, 2.5], [0.3, 0.7, 99.0]], np.float32), 0.001, [])
    tell([], np.array([[np.nan, np.nan, np.nan]], np.float32), 0.001, [])
    told = scrape(server)
    at = {"model": "odd", "version": "1"}
    assert told.of("out_of_distribution_rows_total", **at) == 2
    assert told.of("ood_score_count", **at) == 3
    assert told.of("ood_score_bucket", **at, le="3.0") == 2
    assert told.of("predicted_rows_total", **at, **{"class": "b"}) == 2
    assert told.of("confidence_ratio_count", **at) == 3
    assert told.of("confidence_ratio_sum", **at) == pytest.approx(0.9 + 0.8 + 0.7, rel=1e-5)
