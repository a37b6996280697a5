"""Train, export, serve, predict: what the server answers is what Keras says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import data_folder, run_module
from topclass import Client

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


def keras_says(run: Path, rows: np.ndarray) -> np.ndarray:
    """The probabilities of the run's Keras model, by the run's temperature."""
    import keras

    model = keras.models.load_model(run / "model.keras")
    parts = [np.asarray(model(rows[i : i + 500], training=False), np.float64) for i in range(0, len(rows), 500)]
    temperature = json.loads((run / "metrics.json").read_text())["calibration"]["temperature"]
    powers = np.concatenate(parts) ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def served(address: str, name: str, rows: np.ndarray) -> np.ndarray:
    """The probabilities that the server answers with."""
    with Client(address) as client:
        batches = (rows[start : start + 500] for start in range(0, len(rows), 500))
        return np.concatenate([result.probabilities for result in client.predict_many(batches, name)])


@pytest.mark.parametrize("recipe", ["mlp", "cnn"])
def test_one_step_of_training_is_served_as_keras_computes_it(
    recipe: str, tmp_path: Path, start_server: Callable[[Path], str]
) -> None:
    """One epoch on a few digits, exported and served, gives the same numbers as Keras on the held-out digits."""
    flags = ["--runs", str(tmp_path / "runs"), "--epochs", "1", "--limit", "64", "--batch-size", "64"]
    run = Path(run_module("-m", f"training.{recipe}", *flags))
    path = Path(run_module("-m", "export", str(run), "--models", str(tmp_path / "models")))
    assert path == tmp_path / "models" / f"digits-{recipe}" / "1" / "model.onnx"
    rows = np.load(run / "test.npz")["inputs"]
    address = start_server(tmp_path / "models")
    np.testing.assert_allclose(served(address, f"digits-{recipe}", rows), keras_says(run, rows), atol=1e-5)


def test_a_table_is_trained_and_served_as_keras_computes_it(
    tmp_path: Path, start_server: Callable[[Path], str]
) -> None:
    """A user's own table of floats with labels in words goes the whole way; the answers carry the words."""
    random = np.random.default_rng(0)
    rows = random.normal(50, 20, (400, 3)).astype(np.float32)
    names = np.where(rows[:, 0] > rows[:, 1], "left", "right")
    np.savez(tmp_path / "sides.npz", x=rows, y=names)
    data = ["--data", str(tmp_path / "sides.npz"), "--epochs", "20", "--runs", str(tmp_path / "runs")]
    run = Path(run_module("-m", "training.mlp", *data))
    run_module("-m", "export", str(run), "--models", str(tmp_path / "models"))
    address = start_server(tmp_path / "models")
    held_out = np.load(run / "test.npz")["inputs"]
    np.testing.assert_allclose(served(address, "", held_out), keras_says(run, held_out), atol=1e-5)
    with Client(address) as client:
        result = client.predict(np.array([[90, 10, 0], [10, 90, 0]], np.float32))
        assert result.labels == ("left", "right")
        assert list(result.top_label) == ["left", "right"]


# As few epochs as reach the bar with room: CI has two cores.
@pytest.mark.parametrize(("recipe", "bar", "epochs"), [("mlp", 0.975, 8), ("cnn", 0.988, 3)])
def test_mnist_reaches_its_bar_and_all_ten_thousand_answers_agree_with_keras(
    recipe: str, bar: float, epochs: int, tmp_path: Path, start_server: Callable[[Path], str]
) -> None:
    """On real MNIST the test accuracy is reached, and served and Keras' answers agree on all 10,000 test pictures."""
    folder = data_folder()
    if folder is None:
        pytest.skip("mnist.npz is not here: name its folder in TOPCLASS_DATA, or put it in ../data")
    where = ["--data-dir", str(folder), "--runs", str(tmp_path / "runs")]
    run = Path(run_module("-m", f"training.{recipe}", "--data", "mnist", *where, "--epochs", str(epochs)))
    run_module("-m", "export", str(run), "--models", str(tmp_path / "models"))
    with np.load(folder / "mnist.npz") as data:
        rows, labels = data["x_test"], data["y_test"]
    assert len(rows) == 10_000
    answers = served(start_server(tmp_path / "models"), f"mnist-{recipe}", rows)
    expected = keras_says(run, rows)
    assert (answers.argmax(axis=1) == labels).mean() >= bar
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(answers - expected).max() <= 1e-5


def test_strange_pictures_are_told_from_digits(tmp_path: Path, start_server: Callable[[Path], str]) -> None:
    """A network trained on digits, served, calls noise, flat and inverted pictures out of distribution; digits not."""
    run = Path(run_module("-m", "training.mlp", "--epochs", "15", "--runs", str(tmp_path / "runs")))
    run_module("-m", "export", str(run), "--models", str(tmp_path / "models"))
    digits = np.load(run / "test.npz")["inputs"]
    random = np.random.default_rng(0)
    flat = np.broadcast_to(random.integers(0, 256, (200, 1, 1), np.uint8), (200, 28, 28))
    strange = np.concatenate([random.integers(0, 256, (200, 28, 28), np.uint8), flat, 255 - digits])
    with Client(start_server(tmp_path / "models")) as client:
        usual, other = client.predict(digits), client.predict(strange)
    assert usual.ood_score is not None
    assert other.ood_score is not None
    assert np.mean(usual.out_of_distribution) < 0.12  # 5 % of 143 validation rows set the threshold
    assert np.mean(other.out_of_distribution) >= 0.99
    assert np.array_equal(other.out_of_distribution, other.ood_score > 1)
