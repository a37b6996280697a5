"""A dataset and its split into training, validation and test part."""

import hashlib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import made, npz
from training.errors import DataError, UsageError
from training.sources import AS_IT_IS, NAMED, Reading, contents, name_of

__all__ = ["NAMED", "Dataset", "HeldOut", "Part", "Reading", "from_options", "hold_out", "load", "name_of", "split"]

# One seed for every split, apart from the training seed: two runs are compared on the same held-out rows.
SPLIT_SEED = 20170


@dataclass(frozen=True)
class HeldOut:
    """Shares of the rows for validation and, where the source has no such part, for the test.

    With `test_rows` so many training rows are the test, and the source's own test part is reported beside it.
    """

    validation: float = 0.1
    test: float = 0.2
    test_rows: int | None = None


USUAL = HeldOut()


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
    """A dataset, split. `sha256` is of all its rows, before the split; `notes` are remarks for the user.

    `official` is the source's own test part, where another was held out of its training rows (`--test-rows`).
    """

    name: str
    labels: tuple[str, ...]
    train: Part
    validation: Part
    test: Part
    sha256: str
    features: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    official: Part | None = None

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


def load(
    source: str,
    data_dir: Path | None = None,
    limit: int | None = None,
    reading: Reading = AS_IT_IS,
    held_out: HeldOut = USUAL,
) -> Dataset:
    """Load a dataset of NAMED, or the .npz, .csv or folder of pictures at the path `source`, and split it.

    A named dataset is read from its file in `data_dir` where that exists, else from Keras' cache, which downloads it
    once. `limit` keeps the first rows of the training part only; the other parts stay whole.
    Raises UsageError for a name that is none, DataError for data that are missing or broken.
    """
    name = name_of(source)
    dataset = split(name, contents(source, data_dir, reading), held_out)
    if limit is not None:
        dataset = replace(dataset, train=dataset.train.take(slice(limit)))
    return dataset


def from_options(options: Namespace) -> Dataset:
    """What the flags of a command ask for; UsageError for one that its data have no use for."""
    path = Path(options.data)
    if options.label is not None and path.suffix.lower() != ".csv":
        raise UsageError(f"--label names a column of a CSV, and --data is {options.data}")
    if (options.size or options.channels) and (options.data in NAMED or not path.is_dir()):
        raise UsageError(f"--size and --channels are for a folder of pictures, and --data is {options.data}")
    size = None
    if options.size:
        height, _, width = options.size.partition("x")
        size = (int(height), int(width))
    reading = Reading(options.label, size, int(options.channels or 0) or None)
    held_out = HeldOut(options.validation, options.test, options.test_rows)
    return load(options.data, options.data_dir, options.limit, reading, held_out)


def split(name: str, rows: npz.Contents, held_out: HeldOut = USUAL) -> Dataset:
    """Hold out the test part, where the source has none, and then the validation part; every class keeps its share.

    The four rows of a truth table are all there is: each part is all of them.
    """
    pool = Part(rows.inputs, rows.labels)
    official = None
    if rows.test_inputs is not None and rows.test_labels is not None:
        official = Part(rows.test_inputs, rows.test_labels)
    if name in made.WHOLE:
        all_there_is = ("these rows are all there are: every part is all of them",)
        return Dataset(name, rows.names, pool, pool, pool, _sha256(rows), rows.features, all_there_is)
    if held_out.test_rows is not None:
        pool, test = hold_out(pool, held_out.test_rows / len(pool))
    elif official is not None:
        test, official = official, None
    else:
        pool, test = hold_out(pool, held_out.test)
    train, validation = hold_out(pool, held_out.validation)
    notes = (*rows.notes, *_copies(train, test))
    return Dataset(name, rows.names, train, validation, test, _sha256(rows), rows.features, notes, official)


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


def _sha256(rows: npz.Contents) -> str:
    """The same rows give the same hash, from whatever file or cache they come."""
    digest = hashlib.sha256(repr(rows.names).encode())
    for array in (rows.inputs, rows.labels, rows.test_inputs, rows.test_labels):
        if array is not None:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _copies(train: Part, test: Part) -> Sequence[str]:
    known = {row.tobytes() for row in train.inputs}
    count = sum(row.tobytes() in known for row in test.inputs)
    return (f"{count} of {len(test)} test rows are exact copies of training rows",) if count else ()
