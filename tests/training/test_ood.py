"""The score of strangeness: what it is fitted to, when there is none, and the strange inputs that it is measured on."""

from pathlib import Path

import numpy as np
import pytest

from training import ood, strange
from training.ood_compare import methods, table


def clusters(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [n,8] of three classes in three directions, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, rows)
    return np.eye(8)[labels] * 5 + random.normal(0, 0.5, (rows, 8)), labels


@pytest.fixture(scope="module")
def detector() -> ood.Detector:
    """A score fitted to the clusters."""
    return ood.fit(*clusters(2000, 0), clusters(1000, 1)[0])


def test_the_threshold_accepts_what_it_should(detector: ood.Detector) -> None:
    """The score of 95 % of the validation rows is at most 1, and of about as many rows that it never saw."""
    assert np.mean(detector.scores(clusters(1000, 1)[0]) <= 1) == pytest.approx(ood.ACCEPTED, abs=0.002)
    assert np.mean(detector.scores(clusters(1000, 2)[0]) <= 1) == pytest.approx(ood.ACCEPTED, abs=0.02)


def test_other_directions_are_strange(detector: ood.Detector) -> None:
    """Features in a direction of no class, or of two at once, score over 1; so do none at all."""
    strange_rows = np.array([[0, 0, 0, 0, 0, 0, 5, 0], [3, 3, 0, 0, 0, 0, 0, 0], [0] * 8], float)
    assert (detector.scores(strange_rows) > 1).all()


def test_the_score_is_the_mahalanobis_distance_to_the_nearest_class(detector: ood.Detector) -> None:
    """It is what the definition gives, in units of the threshold: by the inverse of the covariance, class by class."""
    train, labels = clusters(2000, 0)
    rows = clusters(50, 3)[0]
    units, row_units = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train, rows))
    means = np.stack([units[labels == label].mean(axis=0) for label in range(3)])
    covariance = np.cov((units - means[labels]).T, bias=True)
    inverse = np.linalg.inv(covariance + ood.SHRINKAGE * np.trace(covariance) / 8 * np.eye(8))
    gaps = row_units[:, None] - means
    expected = np.einsum("ncf,fg,ncg->nc", gaps, inverse, gaps).min(axis=1)
    ratio = detector.scores(rows) / expected
    assert ratio == pytest.approx(ratio[0])


def test_a_class_that_was_never_seen_is_no_center() -> None:
    """Labels with a gap, as a small training part may have, fit a score for the classes that are there."""
    train, labels = clusters(500, 0)
    assert ood.fit(train, labels * 2, train).centers.shape == (3, 8)


def test_features_that_never_moved_do_not_divide_by_zero() -> None:
    """A dead feature, or all of them equal, gives finite scores."""
    train, labels = clusters(500, 0)
    train[:, 5:] = 0
    assert np.isfinite(ood.fit(train, labels, train).scores(train)).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((1000, 200, 2000), "2,000 features; the score is for 1,024 at most"),
        ((99, 200, 20), "99 training rows are too few for 20 features; it takes 5 for each"),
        ((1000, 99, 20), "99 validation rows are too few to set a threshold by; it takes 100"),
    ],
)
def test_too_little_to_fit_a_score_is_said(rows: tuple[int, int, int], words: str) -> None:
    """Too many features, or too few rows: there is no score, and a sentence says why."""
    assert words in str(ood.too_few(*rows))
    assert ood.too_few(1000, 100, 200) is None


def test_a_saved_score_is_the_same(detector: ood.Detector, tmp_path: Path) -> None:
    """What export reads from ood.npz is what was fitted."""
    detector.save(tmp_path / "ood.npz")
    with np.load(tmp_path / "ood.npz") as file:
        again = ood.Detector(file["mean"], file["whiten"], file["centers"])
    rows = clusters(10, 5)[0]
    assert np.array_equal(detector.scores(rows), again.scores(rows))


@pytest.mark.parametrize("shape", [(28, 28), (12, 16, 3)])
def test_every_kind_of_strange_picture_is_a_picture(shape: tuple[int, ...]) -> None:
    """As many as were given, of the same shape and type, the same for the same seed, and not what was given."""
    usual = np.random.RandomState(0).randint(0, 256, (20, *shape)).astype(np.uint8)
    for kind, make in {**strange.KNOWN, **strange.SEEN, **strange.HELD_OUT}.items():
        if kind == "turned" and shape[0] != shape[1]:
            continue
        first, again = (make(usual, np.random.RandomState(1)) for _ in range(2))
        assert (first.shape, first.dtype) == (usual.shape, np.uint8), kind
        assert np.array_equal(first, again), kind
        assert not np.array_equal(first, usual), kind


def test_strange_rows_of_tables() -> None:
    """Shuffled columns keep each column's values; rows far away are ten deviations from the mean."""
    usual = np.random.default_rng(0).normal(3, 2, (100, 4)).astype(np.float32)
    made = strange.rows_of(usual, np.random.RandomState(0))
    assert np.array_equal(np.sort(made["shuffled"], axis=0), np.sort(usual, axis=0))
    gaps = np.abs(made["far away"] - usual.mean(axis=0)) / usual.std(axis=0)
    assert gaps == pytest.approx(10, rel=1e-4)


def test_every_method_of_the_comparison_finds_the_strange_rows() -> None:
    """Each of the compared scores gives features of no class more than those of a class, and stands in the table."""
    train, labels = clusters(2500, 0)
    usual, other = clusters(200, 1)[0], np.tile([0, 0, 0, 0, 3.0, 0, 0, 4.0], (200, 1))
    found = methods(train, labels)
    assert len(found) == 7
    answers = {}
    for name, score in found.items():
        low, high = score(usual, usual[:, :3]), score(other, other[:, :3])
        answers[name] = {"test": (np.nan, 0.05), "odd": (ood.auroc(low, high), 1.0)}
        assert ood.auroc(low, high) > 0.95, name
    lines = table(answers, ["odd"]).splitlines()
    assert [line.count("|") for line in lines] == [9, 9, 9, 9]
