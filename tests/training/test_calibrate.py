"""Calibration: how sure the network is against how often it is right, and the temperature between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import calibrate


def sharpened(power: float, rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Answers [n,3] that would be right as often as they say, but for their logits, which were multiplied."""
    random = np.random.default_rng(0)
    honest = random.dirichlet([0.5, 0.5, 0.5], rows)
    labels = np.array([random.choice(3, p=row) for row in honest])
    return calibrate.tempered(honest, 1 / power), labels


def test_the_calibration_error_of_a_small_case() -> None:
    """Four rows in two bins of fifteen: half of 0.9 - 0.5, and half of 0.6 - 1."""
    answers = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    found = calibrate.reliability(answers, np.array([0, 1, 1, 1]))
    assert found.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert found.rows.nonzero()[0].tolist() == [9, 13]
    assert found.right[[9, 13]].tolist() == [1.0, 0.5]


def test_certainty_is_in_the_last_bin() -> None:
    """A probability of 1 is counted with those just under it."""
    assert calibrate.reliability(np.array([[1.0, 0.0]]), np.array([0])).rows.tolist() == [0] * 14 + [1]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.5])
def test_the_temperature_finds_back_what_was_done_to_the_logits(power: float) -> None:
    """Logits that are too large, or too small, by a factor get that factor as their temperature, and honest answers."""
    answers, labels = sharpened(power)
    temperature = calibrate.temperature(answers, labels)
    assert temperature == pytest.approx(power, rel=0.05)
    assert calibrate.reliability(calibrate.tempered(answers, temperature), labels).ece < 0.01


def test_the_temperature_stays_where_export_can_prove_it() -> None:
    """Answers that are always right would be made surer without end; the temperature stops at its bound."""
    answers = np.tile([0.6, 0.4], (100, 1))
    assert calibrate.temperature(answers, np.zeros(100, np.int64)) == pytest.approx(calibrate.COLDEST, rel=1e-3)


@given(st.floats(calibrate.COLDEST, calibrate.HOTTEST), st.integers(0, 2**32 - 1))
def test_a_temperature_never_changes_the_class_said(temperature: float, seed: int) -> None:
    """Whatever the temperature: rows still add up to 1, and the same class leads."""
    answers = np.random.default_rng(seed).dirichlet([0.2] * 5, 20)
    tempered = calibrate.tempered(answers, temperature)
    assert np.allclose(tempered.sum(axis=1), 1)
    assert tempered[np.arange(20), answers.argmax(axis=1)] == pytest.approx(tempered.max(axis=1))
