"""The datasets, by name or from a user's .npz, and their split into training, validation and test part."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training import npz
from training.errors import DataError, UsageError

DIGITS = tuple("0123456789")
NAMED: dict[str, tuple[str, ...]] = {
    "digits": DIGITS,
    "mnist": DIGITS,
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}

# One seed for every split, apart from the training seed: two runs are compared on the same held-out rows.
SPLIT_SEED = 20170
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1


@dataclass(frozen=True)
class Part:
    """Rows and what they are: uint8 pictures [N,H,W] or [N,H,W,3], or float32 table [N,F]; labels int64 [N]."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64] | slice) -> "Part":
        """These rows only."""
        return Part(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """A dataset, split. `sha256` is of all its rows, before the split; `notes` are remarks for the user."""

    name: str
    labels: tuple[str, ...]
    train: Part
    validation: Part
    test: Part
    sha256: str
    features: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: (H, W), (H, W, 3) or (F,)."""
        return self.train.inputs.shape[1:]

    @property
    def is_table(self) -> bool:
        """Whether rows are table rows and not pictures."""
        return self.features is not None

    @property
    def sizes(self) -> dict[str, int]:
        """The rows in each part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    @property
    def input(self) -> dict[str, Any]:
        """What a row is, as the run folder's metrics.json says it."""
        if self.features is not None:
            return {"kind": "table", "features": list(self.features)}
        height, width, *channels = self.row_shape
        return {"kind": "image", "height": height, "width": width, "channels": channels[0] if channels else 1}


def load(source: str, data_dir: Path | None = None, limit: int | None = None) -> Dataset:
    """Load a dataset of NAMED, or the .npz at the path `source`, and split it.

    A named dataset other than `digits` is read from `data_dir`/NAME.npz where that exists, else from Keras' cache,
    which downloads it once. `limit` keeps the first rows of the training part only; the other parts stay whole.
    Raises UsageError for a name that is none, DataError for data that are missing or broken.
    """
    name = name_of(source)
    contents = _contents(source, data_dir)
    dataset = split(name, contents)
    if limit is not None:
        dataset = replace(dataset, train=dataset.train.take(slice(limit)))
    return dataset


def name_of(source: str) -> str:
    """The dataset's name: itself where it is known, the stem of a path otherwise; UsageError where it is neither."""
    if source in NAMED:
        return source
    path = Path(source)
    if path.suffix == ".npz" or len(path.parts) > 1 or path.exists():
        return path.stem
    near = difflib.get_close_matches(source, NAMED, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"unknown dataset {source!r}: expected {', '.join(NAMED)}, or the path of an .npz{hint}")


def split(name: str, contents: npz.Contents) -> Dataset:
    """Hold out the test part, where the source has none, and then the validation part; every class keeps its share."""
    pool = Part(contents.inputs, contents.labels)
    if contents.test_inputs is not None and contents.test_labels is not None:
        test = Part(contents.test_inputs, contents.test_labels)
    else:
        pool, test = hold_out(pool, TEST_FRACTION)
    train, validation = hold_out(pool, VALIDATION_FRACTION)
    notes = (*contents.notes, *_copies(train, test))
    return Dataset(name, contents.names, train, validation, test, _sha256(contents), contents.features, notes)


def hold_out(part: Part, fraction: float, seed: int = SPLIT_SEED) -> tuple[Part, Part]:
    """(kept, held out): `fraction` of every class, at least one row, never its last one; each in the part's order.

    RandomState, unlike numpy's newer generators, promises the same numbers for ever, and so the same split.
    """
    order = np.random.RandomState(seed).permutation(len(part))
    held = np.zeros(len(part), dtype=bool)
    for label in np.unique(part.labels):
        rows = order[part.labels[order] == label]
        held[rows[: min(len(rows) - 1, max(1, round(fraction * len(rows))))]] = True
    if not held.any():
        raise DataError(f"{len(part)} rows are too few to hold some out; expected at least two of one class")
    return part.take(np.flatnonzero(~held)), part.take(np.flatnonzero(held))


# ------------------------------------------------------------------------------------------------------------ sources


def _contents(source: str, data_dir: Path | None) -> npz.Contents:
    if source == "digits":
        return _digits()
    if source not in NAMED:
        return npz.read(Path(source))
    path = data_dir / f"{source}.npz" if data_dir else None
    if path and path.exists():
        return npz.read(path, NAMED[source])
    return _downloaded(source)


def _digits() -> npz.Contents:
    """scikit-learn's 1,797 real scans, 8x8 of 0..16, drawn as MNIST draws them: 20x20 in the middle of 28x28."""
    from sklearn.datasets import load_digits  # here: half a second that the other datasets need not pay

    scans = load_digits()
    pictures = np.zeros((len(scans.images), 28, 28), dtype=np.uint8)
    for picture, scan in zip(pictures, scans.images, strict=True):
        small = Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8))
        picture[4:24, 4:24] = np.asarray(small.resize((20, 20), Image.Resampling.BICUBIC))
    return npz.Contents(pictures, scans.target.astype(np.int64), None, None, DIGITS, None, ())


def _downloaded(name: str) -> npz.Contents:
    import keras

    try:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises bare Exception for a download that fails
        reason = " ".join(str(error).split())
        raise DataError(f"{name} could not be downloaded ({reason}); put {name}.npz into a --data-dir") from None
    labels = [np.asarray(part, dtype=np.int64).reshape(-1) for part in (y, y_test)]
    return npz.Contents(x, labels[0], x_test, labels[1], NAMED[name], None, ())


def _sha256(contents: npz.Contents) -> str:
    """The same rows give the same hash, from whatever file or cache they come."""
    digest = hashlib.sha256(repr(contents.names).encode())
    for array in (contents.inputs, contents.labels, contents.test_inputs, contents.test_labels):
        if array is not None:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _copies(train: Part, test: Part) -> Sequence[str]:
    known = {row.tobytes() for row in train.inputs}
    count = sum(row.tobytes() in known for row in test.inputs)
    return (f"{count} of {len(test)} test rows are exact copies of training rows",) if count else ()
