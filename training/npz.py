"""Reads a user's .npz and refuses, in one line, whatever a classifier could not learn from."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True)
class Contents:
    """What a checked file holds: uint8 pictures [N,H,W] or [N,H,W,3], or a float32 table [N,F]; labels are 0..C-1."""

    inputs: Array
    labels: NDArray[np.int64]
    test_inputs: Array | None
    test_labels: NDArray[np.int64] | None
    names: tuple[str, ...]
    features: tuple[str, ...] | None
    notes: tuple[str, ...]


def read(path: Path, names: Sequence[str] | None = None) -> Contents:
    """Read `x_train`/`y_train` (and `x_test`/`y_test`), or `x`/`y`; `names` are the classes' where the file has none.

    Raises DataError with the file, the key, what was found and what was expected.
    """
    stored = _arrays(path)
    try:
        return checked(stored, names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _arrays(path: Path) -> dict[str, Array]:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: one bare array, expected an .npz with x_train and y_train, or x and y")
        with file:
            return {key: file[key] for key in file.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            raise DataError(f"{path}: holds object arrays; save strings as x.astype(str), numbers as numbers") from None
        raise DataError(f"{path}: no .npz file, or a damaged one; numpy.savez makes one") from None


def checked(stored: dict[str, Array], names: Sequence[str] | None) -> Contents:
    """Check arrays by key, as a file has them; DataError, without the file's name, for what cannot be learnt from."""
    x_key, y_key = _training_keys(stored)
    has_test = x_key == "x_train" and _has_test(stored)
    notes = [f"ignored: {', '.join(sorted(extra))}"] if (extra := _unused(stored, x_key)) else []
    inputs = _inputs(x_key, stored[x_key], notes)
    _same_length(x_key, inputs, y_key, stored[y_key])
    given = tuple(names) if names else _names(stored)
    labels, classes = _classes(y_key, stored[y_key], given)
    test_inputs = test_labels = None
    if has_test:
        test_inputs = _inputs("x_test", stored["x_test"], notes)
        _same_length("x_test", test_inputs, "y_test", stored["y_test"])
        _same_rows(x_key, inputs, test_inputs)
        test_labels, _ = _classes("y_test", stored["y_test"], classes)
    _every_class_is_there(y_key, labels, classes)
    return Contents(inputs, labels, test_inputs, test_labels, classes, _features(stored, inputs), tuple(notes))


def _training_keys(stored: dict[str, Array]) -> tuple[str, str]:
    for x_key, y_key in (("x_train", "y_train"), ("x", "y")):
        if x_key in stored and y_key in stored:
            return x_key, y_key
    found = ", ".join(sorted(stored)) or "nothing"
    raise DataError(f"holds {found}; expected x_train and y_train (and x_test, y_test), or x and y")


def _has_test(stored: dict[str, Array]) -> bool:
    present = [key for key in ("x_test", "y_test") if key in stored]
    if len(present) == 1:
        raise DataError(f"holds {present[0]} alone; expected both x_test and y_test, or neither")
    return len(present) == 2


def _unused(stored: dict[str, Array], x_key: str) -> set[str]:
    used = {"x_train", "y_train", "x_test", "y_test"} if x_key == "x_train" else {"x", "y"}
    return set(stored) - used - {"labels", "features"}


# ------------------------------------------------------------------------------------------------ pictures and tables


def _inputs(key: str, array: Array, notes: list[str]) -> Array:
    shape = list(array.shape)
    if 0 in shape or array.ndim == 0:
        raise DataError(f"{key} has shape {shape}: it is empty")
    if array.ndim == 2:
        return _table(key, array, notes)
    if array.ndim not in (3, 4):
        raise DataError(f"{key} has shape {shape}; expected pictures [N,H,W] or [N,H,W,C], or a table [N,F]")
    return _pictures(key, array, notes)


def _pictures(key: str, array: Array, notes: list[str]) -> Array:
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise DataError(
            f"{key} holds {array.dtype} pictures {shape}; expected uint8, 0 to 255, unscaled: the network scales them "
            f"itself (pictures of 0..1: (x * 255).round().astype('uint8'))"
        )
    if array.ndim == 3 or array.shape[3] == 3:
        return array
    if array.shape[3] == 1:
        notes.append(f"{key} {shape}: one channel, taken as grey pictures {shape[:3]}")
        return array[..., 0]
    raise DataError(f"{key} has shape {shape}: {shape[3]} channels; expected 1 (grey) or 3 (red, green, blue)")


def _table(key: str, array: Array, notes: list[str]) -> Array:
    if array.dtype.kind != "f":
        raise DataError(
            f"{key} holds {array.dtype} of shape {list(array.shape)}; expected a table of float32 [N,F] "
            f"(x.astype('float32')), or uint8 pictures [N,H,W]"
        )
    if array.dtype != np.float32:
        notes.append(f"{key}: {array.dtype} taken as float32")
    with np.errstate(over="ignore"):
        table = array.astype(np.float32)
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, column = (int(index) for index in bad[0])
        raise DataError(f"{key} holds {array[row, column]} in row {row}, column {column}; expected finite float32")
    return table


def _same_length(x_key: str, inputs: Array, y_key: str, labels: Array) -> None:
    if labels.ndim == 0 or len(inputs) != len(labels):
        count = len(labels) if labels.ndim else "no row of"
        raise DataError(f"{x_key} has {len(inputs)} rows, {y_key} has {count} labels; expected one label for each row")


def _same_rows(x_key: str, inputs: Array, test_inputs: Array) -> None:
    ours, theirs = list(inputs.shape[1:]), list(test_inputs.shape[1:])
    if ours != theirs or inputs.dtype != test_inputs.dtype:
        raise DataError(
            f"a row of {x_key} is {inputs.dtype} {ours}, of x_test {test_inputs.dtype} {theirs}; expected the same"
        )


def _features(stored: dict[str, Array], inputs: Array) -> tuple[str, ...] | None:
    if inputs.ndim != 2:
        return None
    if "features" not in stored:
        return tuple(f"x{column}" for column in range(inputs.shape[1]))
    features = _strings("features", stored["features"])
    if len(features) != inputs.shape[1]:
        raise DataError(f"features has {len(features)} names for {inputs.shape[1]} columns; expected one for each")
    return features


# ------------------------------------------------------------------------------------------------------------- labels


def _names(stored: dict[str, Array]) -> tuple[str, ...] | None:
    return _strings("labels", stored["labels"]) if "labels" in stored else None


def _strings(key: str, array: Array) -> tuple[str, ...]:
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(f"{key} is {array.dtype} {list(array.shape)}; expected a list of strings")
    strings = tuple(str(name) for name in array)
    if len(set(strings)) != len(strings) or "" in strings:
        raise DataError(f"{key} names something twice, or has an empty name; expected different, non-empty names")
    return strings


def _classes(key: str, array: Array, names: tuple[str, ...] | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"{key} has shape {list(array.shape)}; expected one label per row [N] (one-hot: y.argmax(axis=1))"
        )
    if array.dtype.kind == "U":
        return _numbered(key, array, names)
    if array.dtype.kind not in "iu":
        raise DataError(f"{key} holds {array.dtype}; expected integers 0..C-1 or strings")
    low, high = int(array.min()), int(array.max())
    if low < 0 or (names and high >= len(names)):
        expected = f"0..{len(names) - 1}" if names else "0..C-1"
        raise DataError(f"{key} holds labels {low}..{high}; expected {expected}")
    if not names and high >= len(array):
        raise DataError(f"{key} holds label {high} with {len(array)} rows only; expected 0..C-1, each class present")
    return array.astype(np.int64), names or tuple(str(number) for number in range(high + 1))


def _numbered(key: str, array: Array, names: tuple[str, ...] | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    classes = names or tuple(sorted({str(name) for name in array}))
    number = {name: index for index, name in enumerate(classes)}
    unknown = sorted({str(name) for name in array} - set(classes))
    if unknown:
        raise DataError(f"{key} holds the label {unknown[0]!r}, which is not among {', '.join(classes[:10])}")
    return np.array([number[str(name)] for name in array], dtype=np.int64), classes


def _every_class_is_there(key: str, labels: NDArray[np.int64], names: tuple[str, ...]) -> None:
    if len(names) < 2:
        raise DataError(f"{key} holds one class only ({names[0]}); expected at least two")
    counts = np.bincount(labels, minlength=len(names))
    if (counts == 0).any():
        missing = int(np.argmin(counts))
        raise DataError(f"{key} has no row of class {missing} ({names[missing]}); expected every class in training")
