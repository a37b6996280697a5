"""A CSV: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from training import data, table
from training.errors import DataError


def written(folder: Path, text: str, name: str = "own.csv") -> Path:
    """A CSV of that text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_read_with_its_names(tmp_path: Path) -> None:
    """Columns become float32 features under their header, the last one the labels, words in alphabetical order."""
    contents = table.read(written(tmp_path, "age, income,kind\n1,2.5,dog\n\n3,-4e1,cat\n5,6,dog\n"))
    assert contents.inputs.tolist() == [[1, 2.5], [3, -40], [5, 6]]
    assert contents.inputs.dtype == np.float32
    assert (contents.features, contents.names) == (("age", "income"), ("cat", "dog"))
    assert contents.labels.tolist() == [1, 0, 1]


def test_any_column_can_be_the_labels(tmp_path: Path) -> None:
    """--label names it; the others keep their order."""
    contents = table.read(written(tmp_path, "a,kind,b\n1,x,2\n3,y,4\n"), "kind")
    assert (contents.inputs.tolist(), contents.features) == ([[1, 2], [3, 4]], ("a", "b"))


def test_numbers_from_zero_on_are_classes_and_others_are_names(tmp_path: Path) -> None:
    """0 and 1 stay classes 0 and 1; 3 and 10 are two classes called so, not eleven."""
    assert table.read(written(tmp_path, "a,y\n1,1\n2,0\n")).labels.tolist() == [1, 0]
    contents = table.read(written(tmp_path, "a,y\n1,3\n2,10\n"))
    assert (contents.names, contents.labels.tolist()) == (("10", "3"), [1, 0])


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    """What spreadsheets put before the first header is passed over."""
    path = tmp_path / "own.csv"
    path.write_bytes(b"\xef\xbb\xbfa,y\n1,p\n2,q\n")
    assert table.read(path).features == ("a",)


REFUSED = {
    "": "expected a header, at least two columns",
    "a,y\n": "expected a header, at least two columns",
    "a\n1\n": "expected a header, at least two columns",
    "1,2\n3,4\n": "the first line is 1, 2; expected a header of column names",
    "a,a,y\n1,2,x\n": "names a column twice",
    "a,,y\n1,2,x\n": "or has an empty name",
    "a,y\n1,x\n2,y,3\n": "line 3 has 3 cells; the header has 2",
    "a,y\n1,x\nParis,y\n": "line 3, column 'a' holds 'Paris'; expected a number",
    "a,y\n1,x\n,y\n": "line 3, column 'a' holds nothing; expected a number",
    "a,y\nnan,x\n1,y\n": "line 2, column 'a' holds 'nan'; expected a number",
    "a,y\n1,x\n2,\n": "line 3 has no label in the column 'y'",
    "a,y\n1,x\n2,x\n": "holds one class only (x); expected at least two",
    'a,y\n"1,x\n2,y\n': "no CSV in UTF-8",
    "a,y\n1e300,x\n2,y\n": "expected finite float32",
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items(), ids=[repr(text) for text in REFUSED])
def test_a_broken_table_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    """Each fault names the file, the line and the column, and what would be right."""
    path = written(tmp_path, text)
    with pytest.raises(DataError) as fault:
        table.read(path)
    assert str(fault.value).startswith(f"{path}: ")
    assert words in str(fault.value)
    assert "\n" not in str(fault.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    """A missing file, a folder called so and bytes that are no text are each one line."""
    (tmp_path / "bytes.csv").write_bytes(b"a,y\n\xff\xfe,1\n")
    for name, words in {"gone.csv": "no such file", "bytes.csv": "no CSV in UTF-8"}.items():
        with pytest.raises(DataError, match=words):
            table.read(tmp_path / name)


def test_a_label_that_is_no_column_is_guessed(tmp_path: Path) -> None:
    """--label kin offers kind."""
    with pytest.raises(DataError, match=r"no column 'kin' for the labels; there are a, kind; did you mean kind\?"):
        table.read(written(tmp_path, "a,kind\n1,x\n2,y\n"), "kin")


def test_a_table_of_any_name_is_a_dataset(tmp_path: Path) -> None:
    """load splits it as it does an .npz, and calls it by the file's stem."""
    rows = "".join(f"{i},{i * i},{'odd' if i % 2 else 'even'}\n" for i in range(40))
    dataset = data.load(str(written(tmp_path, f"a,b,kind\n{rows}")))
    assert (dataset.name, dataset.features, dataset.sizes["test"]) == ("own", ("a", "b"), 8)
    assert "the labels are the column 'kind'" in dataset.notes
