"""What `topclass predict` reads and writes, and what it counts where labels are known."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import math
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests import models
from tests.clients.command import environment, read_table
from tests.clients.test_predict import PICTURES, PROBABILITIES, png
from topclass.batch import manifest
from topclass.batch.numbers import float_cells, joined
from topclass.batch.sources import Reading, read
from topclass.commands import run

Predict = Callable[..., tuple[int, str, str]]
TRUE = ["cat", "dog", "emu"] * 3


def idx(array: np.ndarray) -> bytes:
    """The array as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The nine pictures in every format."""
    folder = tmp_path / "work"
    (folder / "tree").mkdir(parents=True)
    monkeypatch.chdir(folder)
    rows = PICTURES.reshape(9, 16)
    files = {f"{row}.png": png(PICTURES[row]) for row in range(9)}
    for row, name in enumerate(files):
        (folder / "tree" / TRUE[row]).mkdir(exist_ok=True)
        (folder / "tree" / TRUE[row] / name).write_bytes(files[name])
    with zipfile.ZipFile("all.zip", "w") as archive:
        for name, data in {"readme.txt": b"no picture", "__MACOSX/0.png": b"", **files}.items():
            archive.writestr(name, data)
    for name in ("all.tar", "all.tar.gz"):
        with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as packed:
            for member, data in files.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                packed.addfile(entry, io.BytesIO(data))
    Path("all-images-idx3-ubyte").write_bytes(idx(PICTURES))
    Path("all-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PICTURES)))
    Path("labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2] * 3, np.uint8)))
    np.save("all.npy", PICTURES)
    np.savez("all.npz", x_test=PICTURES, y_test=np.array([0, 1, 2] * 3))
    Path("plain.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    with Path("named.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "truth", *(f"pixel{n}" for n in range(16))])
        writer.writerows([f"n,{row}", TRUE[row], *rows[row]] for row in range(9))
    Path("paths.csv").write_text("path\n" + "".join(f"tree/{TRUE[row]}/{row}.png\n" for row in range(9)))
    Path("nested.jsonl").write_text("".join(json.dumps(p.tolist()) + "\n\n" for p in PICTURES))
    Path("coded.jsonl.gz").write_bytes(gzip.compress("".join(
        json.dumps({"name": f"n{row}", "image": base64.b64encode(png(PICTURES[row])).decode(), "truth": TRUE[row]})
        + "\n"
        for row in range(9)).encode()))  # fmt: skip
    return folder


@pytest.fixture
def predict(server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Predict:
    """Runs `topclass predict` in the folder, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TOPCLASS_SERVER", server.address)

    def run_here(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["predict", *arguments])
        return (code, *capfd.readouterr())

    return run_here


def holds(table: str, expected: np.ndarray = PROBABILITIES) -> list[str]:
    """The table has these probabilities in this order; the names of its rows."""
    rows = read_table(table)
    found = [[float(row[f"p_{label}"]) for label in models.LABELS] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    return [row["input"] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["all.zip"], "all.zip/4.png"),
        (["all.tar"], "all.tar/4.png"),
        (["all.tar.gz"], "all.tar.gz/4.png"),
        (["all-images-idx3-ubyte"], "all-images-idx3-ubyte[4]"),
        (["all-images-idx3-ubyte.gz"], "all-images-idx3-ubyte.gz[4]"),
        (["plain.csv"], "plain.csv[4]"),
        (["named.csv", "--id", "name", "--labels", "truth"], "n,4"),
        (["paths.csv", "--key", "path"], "paths.csv[4]"),
        (["nested.jsonl"], "nested.jsonl[4]"),
        (["coded.jsonl.gz", "--id", "name"], "n4"),
    ],
)
@pytest.mark.parametrize("batch_size", ["2", "64"])
def test_formats(predict: Predict, arguments: list[str], name: str, batch_size: str) -> None:
    """Every kind of file gives the same answers in the same order."""
    code, out, err = predict(*arguments, "--batch-size", batch_size)
    assert code == 0, err
    assert holds(out)[4] == name


def test_patterns(predict: Predict) -> None:
    """A pattern that the shell did not expand is expanded, in the order of the names."""
    code, out, _ = predict("tree/**/*.png")
    assert code == 0
    order = sorted(range(9), key=lambda row: (TRUE[row], row))
    assert holds(out, PROBABILITIES[order]) == [f"tree/{TRUE[row]}/{row}.png" for row in order]
    code, _, err = predict("nowhere/*.png")
    assert (code, err) == (1, "topclass: no file has a name like nowhere/*.png\n")


@pytest.mark.parametrize("kind", ["bytes", "struct", "lists", "columns"])
def test_parquet(predict: Predict, folder: Path, kind: str) -> None:
    """Parquet with pictures as bytes or lists, and with a column for each number, is read, and written."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    files, rows = [png(picture) for picture in PICTURES], PICTURES.reshape(9, 16)
    inputs = {
        "bytes": {"image": files},
        "struct": {"image": [{"bytes": data, "path": None} for data in files]},
        "lists": {"image": PICTURES.tolist()},
        "columns": {f"c{n}": rows[:, n] for n in range(16)},
    }[kind]
    names = [f"n{row}" for row in range(9)]
    parquet.write_table(pa.table({"name": names, "truth": TRUE, **inputs}), folder / "in.parquet", row_group_size=4)
    options = ["--id", "name", "--labels", "truth", "--top-k", "2", "--batch-size", "2", "-o", "out.parquet"]
    code, _, err = predict("in.parquet", *options)
    assert code == 0, err
    table = parquet.read_table(folder / "out.parquet")
    np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()), PROBABILITIES, atol=1e-6)
    assert table["input"].to_pylist() == names
    assert table["expected"].to_pylist() == TRUE
    assert table["label"].to_pylist() == [models.LABELS[i] for i in PROBABILITIES.argmax(axis=1)]
    assert json.loads(table.schema.metadata[b"topclass.labels"]) == list(models.LABELS)
    assert set(table["version"].to_pylist()) == {1}
    assert table["error"].null_count == 9
    assert table.column_names[4:6] == ["label_2", "probability_2"]


def test_json_lines(predict: Predict, folder: Path) -> None:
    """JSON lines have the same numbers as CSV, and for a bad row its reason."""
    (folder / "tree" / "cat" / "3.png").write_bytes(b"nothing")
    code, _, _ = predict("tree", "-o", "out.jsonl", "--top-k", "2", "--labels", "folders")
    assert code == 3
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    order = sorted(range(9), key=lambda row: (TRUE[row], row))
    for row, found in zip(order, rows, strict=True):
        assert (found["input"], found["expected"]) == (f"tree/{TRUE[row]}/{row}.png", TRUE[row])
        if row == 3:
            assert found["error"].startswith("cannot be decoded")
            continue
        np.testing.assert_allclose(found["probabilities"], PROBABILITIES[row], atol=1e-6)
        assert found["label_2"] == models.LABELS[np.argsort(-PROBABILITIES[row])[1]]
        assert (found["ood_score"], found["out_of_distribution"], found["version"]) == (None, False, 1)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "npy", "picture"])
def test_standard_input(server: Any, folder: Path, kind: str) -> None:
    """Standard input is read as --input-format says."""
    file = {"csv": "plain.csv", "jsonl": "nested.jsonl", "npy": "all.npy", "picture": "tree/cat/0.png"}[kind]
    done = subprocess.run(
        [sys.executable, "-m", "topclass", "predict", "-", "--input-format", kind, "--server", server.address],
        input=(folder / file).read_bytes(), env=environment(), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    names = holds(done.stdout.decode(), PROBABILITIES[:1] if kind == "picture" else PROBABILITIES)
    assert names == (["-"] if kind == "picture" else [f"-[{row}]" for row in range(9)])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-"], 1, "standard input (-) needs --input-format: csv, jsonl, npy, picture"),
        (["all.npy", "--input-format", "csv"], 2, "- is not among the inputs"),
        (["named.csv"], 1, "named.csv has 18 columns of inputs, and the model takes 16. Name the column of labels"),
        (["named.csv", "--id", "nobody"], 1, "named.csv has no column 'nobody'; it has: name, truth"),
        (["plain.csv", "--id", "name"], 1, "plain.csv has no column 'name'; its first line is no header"),
        (["broken.zip"], 1, "broken.zip is not a zip archive"),
        (["broken.tar"], 1, "broken.tar is not a tar archive, or is damaged"),
        (["empty.zip"], 1, "empty.zip holds no pictures"),
        (["broken.idx"], 1, "broken.idx is not an IDX file"),
        (["cut.idx"], 1, "cut.idx is cut off or damaged: it promises 9 rows and holds 5"),
        (["cut.idx.gz"], 1, "cut.idx.gz is cut off or damaged"),
        (["cut.csv.gz"], 1, "cut.csv.gz is damaged"),
        (["all.npy", "--labels", "nowhere/y.npy"], 1, "the file of labels nowhere/y.npy does not exist"),
        (["all.npy", "--labels", "few.txt"], 1, "there are only 2 labels"),
        (["all.npy", "--labels", "y"], 1, "all.npy has no labels inside it, and there is no file 'y'"),
        (["all.zip", "--labels", "y"], 1, "all.zip has no labels inside it, and there is no file 'y'"),
        (["tree", "--labels", "y"], 1, "has no labels inside it, and there is no file 'y'"),
        (["all.npz", "--labels", "y"], 1, "all.npz has no array 'y'"),
        (["all.npy", "--report", "html"], 2, "--report needs -o FILE"),
        (["all.npy", "--format", "parquet"], 2, "a Parquet table needs -o FILE"),
        (["all.npy", "--invert", "sometimes"], 2, "'sometimes' is not one of"),
    ],
)
def test_mistakes(predict: Predict, folder: Path, arguments: list[str], code: int, words: str) -> None:
    """Every mistake ends with its exit status and one clear line, without a trace."""
    for name in ("broken.zip", "broken.tar", "broken.idx"):
        (folder / name).write_bytes(b"nonsense" * 100)
    with zipfile.ZipFile("empty.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    (folder / "cut.idx").write_bytes(idx(PICTURES)[:-50])
    (folder / "cut.idx.gz").write_bytes(gzip.compress(idx(PICTURES))[:-30])
    (folder / "cut.csv.gz").write_bytes(gzip.compress((folder / "plain.csv").read_bytes())[:-30])
    (folder / "few.txt").write_text("cat\ndog\n")
    found, _, err = predict(*arguments)
    assert words in err
    assert found == code
    assert "Traceback" not in err


def test_bad_records(predict: Predict, folder: Path) -> None:
    """A record that cannot be a row has its reason, in the table and in the errors file; the others their answer."""
    good = json.dumps(PICTURES[0].tolist())
    lines = [
        good,
        "{",
        "[1, 2]",
        '["a"]',
        "null",
        '{"x": [256' + ", 0" * 15 + "]}",
        '"no base64!"',
        "{}",
        good,
        "[" * 9999,
    ]
    (folder / "bad.jsonl").write_text("\n".join(lines))
    code, _, err = predict("bad.jsonl", "-o", "out.csv")
    assert code == 3, err
    errors = {int(row["row"]): row["error"] for row in csv.DictReader((folder / "out.csv.errors.csv").open())}
    words = {
        1: "is no JSON", 2: "holds 2 numbers, and the model takes 16", 3: "holds what is no number",
        4: "holds a NoneType", 5: "holds what is no whole number from 0 to 255", 6: "no picture file in base64",
        7: "has no inputs or image or x or features; it has: nothing", 9: "is",
    }  # fmt: skip
    assert errors.keys() == words.keys()
    assert [row for row, word in words.items() if word not in errors[row]] == []
    table = read_table((folder / "out.csv").read_text())
    assert [row["error"] == "" for row in table] == [row not in words for row in range(10)]


def test_features_by_name(serve: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table model finds its features by the names in its card, whatever else the file has, and in whatever order."""
    card = {"input": {"features": ["a", "b", "c"]}, "golden": None}
    proto = models.with_card(models.classifier((3,), dtype=TensorProto.FLOAT, scale=100), **card)
    models.put(tmp_path / "models", "table", 1, proto)
    rows = np.random.default_rng(0).normal(0, 1, (5, 3)).astype(np.float32)
    (folder / "t.csv").write_text("c,junk,a,b\n" + "".join(f"{c!s},x,{a!s},{b!s}\n" for a, b, c in rows))
    monkeypatch.chdir(folder)
    assert run(["predict", "t.csv", "-o", "out.csv", "--server", serve().address]) == 0
    expected = models.expected(rows * 100)
    found = [[float(row[f"p_{label}"]) for label in models.LABELS] for row in read_table(Path("out.csv").read_text())]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        ("tree", "folders"),
        ("all.npz", "y_test"),
        ("all.npy", "labels-idx1-ubyte"),
        ("all.npy", "y.npy"),
        ("all.npy", "y.txt"),
        ("all.npy", "y.csv"),
        ("named.csv", "truth"),
        ("coded.jsonl.gz", "truth"),
    ],
)
def test_labels(predict: Predict, folder: Path, inputs: str, labels: str) -> None:
    """However the labels come, the accuracy, the classes and the confusion matrix are said, and are right."""
    np.save(folder / "y.npy", np.array([0, 1, 2] * 3))
    (folder / "y.txt").write_text("\n".join(TRUE))
    (folder / "y.csv").write_text("input,label\n" + "".join(f"all.npy[{row}],{TRUE[row]}\n" for row in range(9)))
    more = ["--id", "name"] if inputs == "named.csv" else []
    code, out, err = predict(inputs, "--labels", labels, "-o", "out.csv", "--json", "--report", "html", *more)
    assert code == 0, err
    right = int((PROBABILITIES.argmax(axis=1) == np.array([0, 1, 2] * 3)).sum())
    assert f"accuracy {100 * right / 9:.2f} % (95 % interval" in err
    assert f"{right} of 9 rows" in err
    assert "true class below, answer to the right:" in err
    summary = json.loads(out)
    assert (summary["rows"], summary["correct"], summary["labelled"]) == (9, right, 9)
    assert sum(cell["rows"] for cell in summary["confusion"] if cell["expected"] == cell["label"]) == right
    page = (folder / "out.csv.html").read_text()
    assert f"{100 * right / 9:.2f} %" in page
    assert "http" not in page.replace("html", "")


def test_numbers() -> None:
    """Numbers in a table read back as the very float32 that they were, and have at most nine digits."""
    random = np.random.default_rng(0)
    values = np.concatenate([
        random.random(20_000, dtype=np.float32),
        (10.0 ** random.uniform(-44, 0, 20_000)).astype(np.float32),
        np.float32([0, 1, 0.5, 0.1, 1e-5, 9.9999e-6, 1e-45, 5, -3.25, 1e20, 3.4e38, -1e-30]),
        np.float32([np.inf, -np.inf, 0.99999994]),
    ])  # fmt: skip
    texts = joined([float_cells(values), b"\n"], len(values)).decode().split()
    np.testing.assert_array_equal(np.array(texts).astype(np.float32), values)
    assert max(len(text.partition("e")[0].replace(".", "").strip("-0")) for text in texts[:40_000]) <= 9
    assert joined([float_cells(np.float32([math.nan]))], 1) == b"nan"


def test_memory_is_flat(tmp_path: Path) -> None:
    """An array is read piece by piece: no piece is larger than a request may be, whatever the batch size."""
    path = tmp_path / "sparse.npy"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (64, 1 << 20)})
    with path.open("wb") as file:
        file.write(stream.getvalue())
        file.truncate(len(stream.getvalue()) + (64 << 20))
    chunks = read(manifest.find([str(path)]), Reading((1024, 1024), "uint8", array_rows=10**9))
    sizes = [chunk.inputs.nbytes for chunk in chunks]  # type: ignore[union-attr]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 8 << 20
