"""Where rows come from: a dataset known by name, an .npz, a CSV, or a folder of pictures."""

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training import made, npz, pictures, table
from training.errors import DataError, UsageError
from training.npz import Contents

DIGITS = tuple("0123456789")
NAMED: dict[str, tuple[str, ...]] = {
    "digits": DIGITS,
    "mnist": DIGITS,
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "insurance": ("no", "yes"),
    **made.LABELS,
}
FILES = {"insurance": "insurance_data.csv"}


@dataclass(frozen=True)
class Reading:
    """What a file does not say of itself: a CSV's column of labels, and what size and colours pictures get."""

    label: str | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None


AS_IT_IS = Reading()


def name_of(source: str) -> str:
    """The dataset's name: itself where it is known, the stem of a path otherwise; UsageError where it is neither."""
    if source in NAMED:
        return source
    path = Path(source)
    if source and (path.suffix in (".npz", ".csv") or len(path.parts) > 1 or path.exists()):
        return path.resolve().name if path.is_dir() else path.stem
    near = difflib.get_close_matches(source, NAMED, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"unknown dataset {source!r}: expected {', '.join(NAMED)}, or the path of an .npz, a .csv or a folder{hint}"
    )


def contents(source: str, data_dir: Path | None, reading: Reading) -> Contents:
    """All rows of a source, checked; DataError for what is missing, broken or no data to learn from."""
    if source == "digits":
        return _digits()
    if source in made.LABELS:
        return made.contents(source)
    if source not in NAMED:
        return _own(Path(source), reading)
    path = data_dir / FILES.get(source, f"{source}.npz") if data_dir else None
    if path and path.exists():
        return table.read(path, None, NAMED[source]) if path.suffix == ".csv" else npz.read(path, NAMED[source])
    if source in FILES:
        raise DataError(f"{source} is read from {FILES[source]} in a --data-dir, and there is none")
    return _downloaded(source)


def _own(path: Path, reading: Reading) -> Contents:
    if path.is_dir():
        return pictures.read(path, reading.size, reading.channels)
    if path.suffix.lower() == ".csv":
        return table.read(path, reading.label)
    return npz.read(path)


def _digits() -> Contents:
    """scikit-learn's 1,797 real scans, 8x8 of 0..16, drawn as MNIST draws them: 20x20 in the middle of 28x28."""
    from sklearn.datasets import load_digits  # here: half a second that the other datasets need not pay

    scans = load_digits()
    pictures = np.zeros((len(scans.images), 28, 28), dtype=np.uint8)
    for picture, scan in zip(pictures, scans.images, strict=True):
        small = Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8))
        picture[4:24, 4:24] = np.asarray(small.resize((20, 20), Image.Resampling.BICUBIC))
    return Contents(pictures, scans.target.astype(np.int64), None, None, DIGITS, None, ())


def _downloaded(name: str) -> Contents:
    import keras

    try:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises bare Exception for a download that fails
        reason = " ".join(str(error).split())
        raise DataError(f"{name} could not be downloaded ({reason}); put {name}.npz into a --data-dir") from None
    labels = [np.asarray(part, dtype=np.int64).reshape(-1) for part in (y, y_test)]
    return Contents(x, labels[0], x_test, labels[1], NAMED[name], None, ())
