"""Datasets by name, and how they are split."""

from pathlib import Path

import numpy as np
import pytest

from training import data
from training.errors import DataError, UsageError


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    """The embedded digits, loaded once."""
    return data.load("digits")


def test_digits_look_like_mnist(digits: data.Dataset) -> None:
    """The 1,797 scans are uint8 28x28, use the whole range, and leave a black margin of four."""
    pictures = np.concatenate([part.inputs for part in (digits.train, digits.validation, digits.test)])
    assert pictures.shape == (1797, 28, 28)
    assert pictures.dtype == np.uint8
    assert pictures.max() == 255
    margin = pictures.copy()
    margin[:, 4:24, 4:24] = 0
    assert not margin.any()


def test_digits_are_always_the_same(digits: data.Dataset) -> None:
    """Loading twice gives the same rows in the same parts, so that two runs meet on the same held-out rows."""
    again = data.load("digits")
    assert again.sha256 == digits.sha256
    assert np.array_equal(again.test.inputs, digits.test.inputs)
    assert digits.sizes == {"train": 1295, "validation": 143, "test": 359}


def test_every_class_keeps_its_share(digits: data.Dataset) -> None:
    """Each digit makes up about a tenth of each part."""
    for part in (digits.train, digits.validation, digits.test):
        shares = np.bincount(part.labels, minlength=10) / len(part)
        assert shares.min() > 0.08
        assert shares.max() < 0.12


def test_the_parts_share_no_row(digits: data.Dataset) -> None:
    """No picture is in two parts."""
    rows = [row.tobytes() for part in (digits.train, digits.validation, digits.test) for row in part.inputs]
    assert len(set(rows)) == 1797


def test_a_limit_shortens_training_only(digits: data.Dataset) -> None:
    """--limit keeps the first training rows and leaves validation, test and hash alone."""
    few = data.load("digits", limit=50)
    assert few.sizes == {**digits.sizes, "train": 50}
    assert np.array_equal(few.train.inputs, digits.train.inputs[:50])
    assert few.sha256 == digits.sha256


def test_holding_out_never_takes_the_last_row_of_a_class() -> None:
    """A class with one row stays in training; a class with two gives one away."""
    part = data.Part(np.arange(3, dtype=np.float32)[:, None], np.array([0, 1, 1]))
    kept, held = data.hold_out(part, 0.1)
    assert sorted(kept.labels.tolist()) == [0, 1]
    assert held.labels.tolist() == [1]


def test_too_few_rows_to_hold_out() -> None:
    """One row of each class cannot be split, and the error says what would do."""
    part = data.Part(np.zeros((2, 1), np.float32), np.array([0, 1]))
    with pytest.raises(DataError, match="2 rows are too few to hold some out; expected at least two of one class"):
        data.hold_out(part, 0.1)


def test_a_named_set_is_read_from_the_data_folder(tmp_path: Path) -> None:
    """DIR/cifar10.npz with labels (N,1) is read without Keras, under its real class names."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = (np.arange(40) % 10)[:, None]
    np.savez(tmp_path / "cifar10.npz", x_train=pictures, y_train=labels, x_test=pictures[:5], y_test=labels[:5])
    dataset = data.load("cifar10", tmp_path)
    assert dataset.labels[0] == "airplane"
    assert dataset.row_shape == (8, 8, 3)
    assert dataset.sizes["test"] == 5
    assert dataset.input == {"kind": "image", "height": 8, "width": 8, "channels": 3}


def test_copies_between_training_and_test_are_reported(tmp_path: Path) -> None:
    """A test row that is also a training row is counted in a note."""
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    labels = np.arange(20) % 2
    np.savez(tmp_path / "own.npz", x_train=rows, y_train=labels, x_test=rows + np.array([0.0, 0.5]), y_test=labels)
    assert data.load(str(tmp_path / "own.npz")).notes == ("x_test: float64 taken as float32",)
    np.savez(tmp_path / "own.npz", x_train=rows, y_train=labels, x_test=rows, y_test=labels)
    assert "of 20 test rows are exact copies of training rows" in data.load(str(tmp_path / "own.npz")).notes[0]


@pytest.mark.tensorflow
def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Keras cannot download, the error names the set, the reason, and the way around."""
    keras = pytest.importorskip("keras")

    def refuse() -> None:
        raise Exception("URL fetch failure on https://example.invalid:\nno network")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", refuse)
    with pytest.raises(DataError) as fault:
        data.load("mnist")
    assert str(fault.value) == (
        "mnist could not be downloaded (URL fetch failure on https://example.invalid: no network); "
        "put mnist.npz into a --data-dir"
    )


def test_an_unknown_name_is_refused_with_a_guess() -> None:
    """A name that is neither a set nor a path is a usage error that offers the nearest name."""
    with pytest.raises(UsageError, match=r"unknown dataset 'mnits': expected digits, mnist, .* did you mean mnist"):
        data.load("mnits")
    assert data.name_of("some/where/cats.npz") == "cats"
