"""A user's .npz: what is taken, and the one line that says why something is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import npz
from training.errors import DataError

GREY = np.zeros((6, 5, 4), dtype=np.uint8)
TABLE = np.arange(12, dtype=np.float32).reshape(6, 2)
LABELS = np.array([0, 1, 0, 1, 0, 1])


def saved(folder: Path, **arrays: Any) -> Path:
    """An .npz of these arrays."""
    path = folder / "set.npz"
    np.savez(path, **arrays)
    return path


def test_pictures_with_a_test_part(tmp_path: Path) -> None:
    """x_train, y_train, x_test and y_test are taken as they are."""
    contents = npz.read(saved(tmp_path, x_train=GREY, y_train=LABELS, x_test=GREY[:2], y_test=LABELS[:2]))
    assert contents.inputs.shape == (6, 5, 4)
    assert contents.test_inputs is not None
    assert contents.test_inputs.shape == (2, 5, 4)
    assert contents.labels.tolist() == LABELS.tolist()
    assert contents.names == ("0", "1")
    assert contents.notes == ()


def test_one_channel_is_squeezed_and_said(tmp_path: Path) -> None:
    """Pictures [N,H,W,1] become grey pictures [N,H,W], and a note says so."""
    contents = npz.read(saved(tmp_path, x=GREY[..., None], y=LABELS))
    assert contents.inputs.shape == (6, 5, 4)
    assert "one channel, taken as grey" in contents.notes[0]


def test_string_labels_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    """Labels that are strings become numbers by their sorted names."""
    contents = npz.read(saved(tmp_path, x=GREY, y=np.array(["dog", "cat", "dog", "ant", "cat", "ant"])))
    assert contents.names == ("ant", "cat", "dog")
    assert contents.labels.tolist() == [2, 1, 2, 0, 1, 0]


def test_label_names_and_feature_names_are_kept(tmp_path: Path) -> None:
    """`labels` names the classes and `features` the columns of a table; float64 is narrowed, and said."""
    path = saved(
        tmp_path,
        x=TABLE.astype(np.float64),
        y=LABELS[:, None],
        labels=np.array(["no", "yes"]),
        features=np.array(["age", "income"]),
    )
    contents = npz.read(path)
    assert contents.names == ("no", "yes")
    assert contents.features == ("age", "income")
    assert contents.inputs.dtype == np.float32
    assert contents.notes == ("x: float64 taken as float32",)


def test_other_keys_are_named_as_ignored(tmp_path: Path) -> None:
    """A key that is not ours is not dropped in silence."""
    assert npz.read(saved(tmp_path, x=GREY, y=LABELS, x_valid=GREY)).notes == ("ignored: x_valid",)


BROKEN = {
    "missing keys": ({"pictures": GREY}, "holds pictures; expected x_train and y_train"),
    "half a test part": ({"x_train": GREY, "y_train": LABELS, "x_test": GREY}, "holds x_test alone"),
    "lengths differ": ({"x": GREY, "y": LABELS[:4]}, "x has 6 rows, y has 4 labels"),
    "float pictures": ({"x": GREY / 255, "y": LABELS}, "x holds float64 pictures [6, 5, 4]; expected uint8, 0 to 255"),
    "integer table": ({"x": GREY[:, 0], "y": LABELS}, "x holds uint8 of shape [6, 4]; expected a table of float32"),
    "one axis": ({"x": TABLE[:, 0], "y": LABELS}, "x has shape [6]; expected pictures [N,H,W]"),
    "five axes": ({"x": np.zeros((6, 1, 1, 1, 1), np.uint8), "y": LABELS}, "x has shape [6, 1, 1, 1, 1]; expected"),
    "four channels": ({"x": np.zeros((6, 5, 4, 4), np.uint8), "y": LABELS}, "4 channels; expected 1 (grey) or 3"),
    "empty": ({"x": GREY[:0], "y": LABELS[:0]}, "x has shape [0, 5, 4]: it is empty"),
    "NaN": ({"x": np.where(TABLE == 7, np.nan, TABLE), "y": LABELS}, "x holds nan in row 3, column 1; expected finite"),
    "too large for float32": ({"x": np.full((6, 2), 1e300), "y": LABELS}, "x holds 1e+300 in row 0, column 0"),
    "one-hot": ({"x": GREY, "y": np.eye(6)}, "y has shape [6, 6]; expected one label per row [N] (one-hot"),
    "float labels": ({"x": GREY, "y": LABELS * 1.0}, "y holds float64; expected integers 0..C-1 or strings"),
    "negative labels": ({"x": GREY, "y": LABELS - 1}, "y holds labels -1..0; expected 0..C-1"),
    "one class": ({"x": GREY, "y": LABELS * 0}, "y holds one class only (0); expected at least two"),
    "a class without rows": ({"x": GREY, "y": LABELS * 2}, "y has no row of class 1 (1)"),
    "a huge label": ({"x": GREY, "y": LABELS * 10**9}, "y holds label 1000000000 with 6 rows only"),
    "label beyond the names": (
        {"x": GREY, "y": LABELS * 2, "labels": np.array(["a", "b"])},
        "labels 0..2; expected 0..1",
    ),
    "names twice": ({"x": GREY, "y": LABELS, "labels": np.array(["a", "a"])}, "labels names something twice"),
    "names that are numbers": (
        {"x": GREY, "y": LABELS, "labels": np.array([1, 2])},
        "labels is int64 [2]; expected a list",
    ),
    "features miscounted": (
        {"x": TABLE, "y": LABELS, "features": np.array(["a"])},
        "features has 1 names for 2 columns",
    ),
    "unknown test label": (
        {
            "x_train": GREY,
            "y_train": np.array(list("ababab")),
            "x_test": GREY[:1],
            "y_test": np.array(["z"]),
        },
        "y_test holds the label 'z', which is not among a, b",
    ),
    "test rows of another shape": (
        {"x_train": GREY, "y_train": LABELS, "x_test": GREY[:, :3], "y_test": LABELS},
        "a row of x_train is uint8 [5, 4], of x_test uint8 [3, 4]",
    ),
    "objects": ({"x": GREY, "y": np.array(["a", None] * 3, dtype=object)}, "holds object arrays"),
}


@pytest.mark.parametrize(("arrays", "words"), BROKEN.values(), ids=BROKEN)
def test_broken_contents_are_refused_in_one_line(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    """Whatever is wrong inside the file, one line names the file, what was found and what was expected."""
    path = saved(tmp_path, **arrays)
    with pytest.raises(DataError) as fault:
        npz.read(path)
    assert str(fault.value).startswith(f"{path}: ")
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    """A missing file, a text, a bare array and a cut-off file are each refused by name."""
    text, bare, cut = (tmp_path / name for name in ("text.npz", "bare.npz", "cut.npz"))
    text.write_text("hello")
    with bare.open("wb") as file:
        np.save(file, GREY)
    cut.write_bytes(saved(tmp_path, x=GREY, y=LABELS).read_bytes()[:-40])
    damaged = "no .npz file, or a damaged one"
    cases = {tmp_path / "gone.npz": "no such file", text: damaged, bare: "one bare array", cut: damaged}
    for path, words in cases.items():
        with pytest.raises(DataError, match=words):
            npz.read(path)
    with pytest.raises(DataError, match="Is a directory"):
        npz.read(tmp_path)
