"""`topclass predict`, run as a shell runs it, against a real server."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from tests import models
from tests.clients.command import environment, read_table, topclass
from tests.clients.fake import LABELS, SHA256, Failure, Fake
from tests.clients.test_predict import PICTURES, PROBABILITIES, png
from topclass import Client, ModelDetails, ModelInfo
from topclass.batch.answers import Asking, by_servers
from topclass.batch.chunk import Chunk
from topclass.commands import run

HEADER = "input,top_class,label,probability,p_cat,p_dog,p_emu,ood_score,out_of_distribution,version,sha256,error"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pictures as PNG files, two of them in a folder below, as .npy and as .npz."""
    folder = tmp_path / "work"
    (folder / "pics" / "more").mkdir(parents=True)
    for index, picture in enumerate(PICTURES):
        name = f"more/{index}.PNG" if index > 6 else f"{index}.png"
        (folder / "pics" / name).write_bytes(png(picture))
    np.save(folder / "all.npy", PICTURES)
    np.savez_compressed(folder / "all.npz", x_train=PICTURES[:1], x_test=PICTURES, y_test=np.zeros(9))
    return folder


@pytest.fixture
def predict(
    server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `topclass predict` in the folder, in this process, which saves the half second that Python starts in."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TOPCLASS_SERVER", server.address)

    def run_here(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["predict", *arguments])
        return (code, *capfd.readouterr())

    return run_here


def holds(table: str, names: list[str], expected: np.ndarray = PROBABILITIES) -> None:
    """The table has these inputs in this order, with these probabilities, and no error."""
    rows = read_table(table)
    assert [row["input"] for row in rows] == names
    found = np.array([[float(row[f"p_{label}"]) for label in models.LABELS] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [int(row["top_class"]) for row in rows] == expected.argmax(axis=1).tolist()
    assert [row["label"] for row in rows] == [models.LABELS[index] for index in expected.argmax(axis=1)]
    assert {row["error"] for row in rows} == {""}


FOLDER_NAMES = [f"pics/{index}.png" for index in range(7)] + ["pics/more/7.PNG", "pics/more/8.PNG"]


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["pics"], FOLDER_NAMES),
        (["pics/"], FOLDER_NAMES),
        (FOLDER_NAMES, FOLDER_NAMES),
        (["./pics/0.png", *FOLDER_NAMES[1:7], "pics/more"], ["./pics/0.png", *FOLDER_NAMES[1:]]),
        (["all.npy"], [f"all.npy[{row}]" for row in range(9)]),
        (["all.npz"], [f"all.npz[{row}]" for row in range(9)]),
    ],
    ids=["folder", "folder with slash", "files", "files and folder", "npy", "npz"],
)
@pytest.mark.parametrize("batch_size", ["2", "64"])
def test_inputs(
    predict: Callable[..., Any], folder: Path, inputs: list[str], names: list[str], batch_size: str
) -> None:
    """Files, folders and arrays give the same table, in the order of the inputs, however they are cut in batches."""
    code, out, err = predict(*inputs, "-o", "out.csv", "--batch-size", batch_size)
    assert (code, out) == (0, "")
    table = (folder / "out.csv").read_text()
    assert table.startswith(HEADER + "\n")
    holds(table, names)
    assert re.fullmatch(r"9 rows in [\d.]+ s \([\d,]+ rows/s\), 0 errors → out\.csv; pets v1\n", err)
    assert sorted(path.name for path in folder.iterdir()) == ["all.npy", "all.npz", "out.csv", "pics"]


def test_standard_output(predict: Callable[..., Any]) -> None:
    """Without -o the table goes to standard output, and the talk does not."""
    for arguments in (["all.npy"], ["all.npy", "-o", "-"]):
        code, out, err = predict(*arguments)
        assert code == 0
        holds(out, [f"all.npy[{row}]" for row in range(9)])
        assert re.fullmatch(r"9 rows in .* 0 errors; pets v1\n", err)


def test_mixed_inputs(predict: Callable[..., Any]) -> None:
    """Pictures and arrays may stand in one command, in any order."""
    code, out, _ = predict("all.npy", "pics/0.png", "all.npz")
    assert code == 0
    names = [f"all.npy[{i}]" for i in range(9)] + ["pics/0.png"] + [f"all.npz[{i}]" for i in range(9)]
    holds(out, names, np.concatenate([PROBABILITIES, PROBABILITIES[:1], PROBABILITIES]))


def test_arrays_of_any_make(predict: Callable[..., Any], folder: Path) -> None:
    """Column-major files, keys chosen by name, and archives of one array are read alike."""
    np.save(folder / "fortran.npy", np.asfortranarray(PICTURES))
    np.savez(folder / "fortran.npz", inputs=np.asfortranarray(PICTURES), labels=np.zeros(9))
    np.savez(folder / "only.npz", whatever=PICTURES, labels=np.zeros(9))
    for arguments in (["fortran.npy"], ["fortran.npz"], ["only.npz"], ["all.npz", "--key", "x_test"]):
        code, out, err = predict(*arguments, "--batch-size", "4")
        assert code == 0, err
        holds(out, [f"{arguments[0]}[{row}]" for row in range(9)])


def test_top_k_and_no_probabilities(predict: Callable[..., Any]) -> None:
    """--top-k adds the next classes, and --no-probabilities leaves out the columns of all."""
    _, out, _ = predict("all.npy", "--top-k", "2", "--no-probabilities")
    assert out.startswith("input,top_class,label,probability,label_2,probability_2,ood_score,")
    for row, probabilities in zip(read_table(out), PROBABILITIES, strict=True):
        second = np.argsort(-probabilities)[1]
        assert row["label_2"] == models.LABELS[second]
        assert float(row["probability_2"]) == pytest.approx(probabilities[second], abs=1e-6)
    assert read_table(predict("all.npy", "--top-k", "99")[1])[0].keys() >= {"label_3", "probability_3"}


def test_numbers_are_exact(predict: Callable[..., Any], server: Any) -> None:
    """The probabilities in the table read back as the very float32 that the server sent."""
    _, out, _ = predict("all.npy")
    with Client(server.address) as client:
        sent = client.predict(PICTURES).probabilities
    read = np.array([[row[f"p_{label}"] for label in models.LABELS] for row in read_table(out)]).astype(np.float32)
    np.testing.assert_array_equal(read, sent)


def test_bad_pictures(predict: Callable[..., Any], folder: Path) -> None:
    """A picture that is none, an empty one and one that cannot be read have their error; the others their answer."""
    (folder / "pics" / "1.png").write_bytes(b"no picture")
    (folder / "pics" / "3.png").write_bytes(b"")
    (folder / "pics" / "5.png").unlink()
    (folder / "pics" / "5.png").symlink_to("nowhere")
    code, _, err = predict("pics", "-o", "out.csv", "--batch-size", "4")
    assert code == 3
    rows = read_table((folder / "out.csv").read_text())
    assert [row["input"] for row in rows] == FOLDER_NAMES
    errors = {index: row["error"] for index, row in enumerate(rows) if row["error"]}
    assert errors.keys() == {1, 3, 5}
    assert errors[1].startswith("cannot be decoded")
    assert errors[3] == "is empty"
    assert errors[5] == "cannot be read: No such file or directory"
    assert {rows[index]["label"] for index in errors} == {""}
    for index in (0, 2, 4, 6, 7, 8):
        assert float(rows[index]["p_dog"]) == pytest.approx(PROBABILITIES[index, 1], abs=1e-6)
    assert "9 rows in" in err
    assert "3 errors → out.csv" in err


def test_only_bad_pictures(predict: Callable[..., Any], folder: Path) -> None:
    """Where every picture is bad, the table still has a line and an error for each."""
    for path in (folder / "pics").rglob("*.[pP][nN][gG]"):
        path.write_bytes(b"no picture")
    code, out, err = predict("pics")
    assert code == 3
    assert all(row["error"] for row in read_table(out))
    assert len(read_table(out)) == 9
    assert "9 errors" in err


def test_bad_rows(serve: Callable[..., Any], tmp_path: Path, folder: Path) -> None:
    """Rows of a table with values that are not finite have their error, and the others their answer."""
    models.put(tmp_path / "models", "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    rows = np.random.default_rng(2).normal(0, 9, (10, 5)).astype(np.float32)
    rows[[2, 9], 1] = np.nan, np.inf
    np.save(folder / "rows.npy", rows)
    code, out, _ = topclass("predict", "rows.npy", "--server", serve().address, "--batch-size", "4", cwd=folder)
    assert code == 3
    table = read_table(out)
    assert [index for index, row in enumerate(table) if row["error"]] == [2, 9]
    assert table[2]["error"] == "holds a value that is not finite"
    good = [index for index in range(10) if index not in (2, 9)]
    np.testing.assert_allclose(
        [float(table[index]["p_0"]) for index in good], models.expected(rows[good])[:, 0], atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.png"], 2, "'nowhere.png' does not exist"),
        ([], 2, "Missing argument 'INPUTS...'"),
        (["empty"], 1, "the folder empty holds no pictures (.png .jpg"),
        (["notes.txt"], 1, "notes.txt is neither a picture (.png"),
        (["wrong.npy"], 1, "wrong.npy is not an array that numpy saved"),
        (["wrong.npz"], 1, "wrong.npz is not an .npz file"),
        (["cut.npy"], 1, "cut.npy is cut off: it promises 9 rows and holds 4"),
        (["damaged.npz"], 1, "damaged.npz is damaged"),
        (["several.npz"], 1, "several.npz holds: a, b; choose the inputs with --key"),
        (["all.npz", "--key", "z"], 1, "all.npz has no array 'z'; it holds: x_train, x_test, y_test"),
        (["all.npy", "--key", "x"], 2, "--key names an array inside an .npz file"),
        (["objects.npy"], 1, "objects.npy holds Python objects"),
        (["number.npy"], 1, "number.npy holds a single number"),
        (["int64.npy"], 1, "int64.npy: the inputs are an array of int64"),
        (["single.npy"], 1, "single.npy: the input has shape [4, 4]"),
        (["all.npy", "-o", "nowhere/out.csv"], 1, "there is no folder"),
        (["all.npy", "-o", "pics"], 1, "pics is a folder"),
        (["all.npy", "-o", "all.npy"], 1, "all.npy is one of the inputs"),
        (["all.npy", "--model", "cars"], 1, "cars"),
        (["all.npy", "--version", "7"], 1, "7"),
        (["all.npy", "--server", "nonsense"], 2, "expected HOST:PORT, such as 127.0.0.1:8001"),
        (["all.npy", "--token", "a\n"], 2, "the token holds a character that cannot be sent"),
        (["all.npy", "--server", "127.0.0.1:1"], 1, "no answer from a topclass server at 127.0.0.1:1"),
        (["all.npy", "--batch-size", "0"], 2, "0 is not in the range"),
        (["all.npy", "--timeout", "0"], 2, "0"),
    ],
)
def test_mistakes(predict: Callable[..., Any], folder: Path, arguments: list[str], code: int, words: str) -> None:
    """Every mistake ends with its exit status and one clear line, without a trace, and writes no table."""
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("notes")
    (folder / "wrong.npy").write_bytes(b"nonsense")
    (folder / "wrong.npz").write_bytes(b"nonsense")
    whole = (folder / "all.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[: -4 * 16 - 9])
    archive = bytearray((folder / "all.npz").read_bytes())
    middle = archive.index(b"x_test.npy") + 120
    archive[middle : middle + 8] = b"\xff" * 8
    (folder / "damaged.npz").write_bytes(archive)
    np.savez(folder / "several.npz", a=PICTURES, b=PICTURES)
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "number.npy", np.uint8(3))
    np.save(folder / "int64.npy", PICTURES.astype(np.int64))
    np.save(folder / "single.npy", PICTURES[0])
    before = sorted(path.name for path in folder.iterdir())
    if "-o" not in arguments:
        arguments = [*arguments, "-o", "out.csv"]
    found, out, err = predict(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "all.npy").read_bytes() == whole


def test_special_files(predict: Callable[..., Any], folder: Path) -> None:
    """-o /dev/null writes there and leaves it what it is, and -o a link writes the file behind the link."""
    assert predict("all.npy", "-o", "/dev/null")[0] == 0
    assert not Path("/dev/null").is_file()
    (folder / "real.csv").write_text("old")
    (folder / "link.csv").symlink_to("real.csv")
    assert predict("all.npy", "-o", "link.csv")[0] == 0
    assert (folder / "link.csv").is_symlink()
    assert (folder / "real.csv").read_text().startswith(HEADER)


def test_strange_names(predict: Callable[..., Any], folder: Path) -> None:
    """Names with commas, quotes and bytes that are no UTF-8 give a table that any program can read."""
    odd = os.fsdecode(b'a,"b"\xff.png')
    (folder / odd).write_bytes(png(PICTURES[0]))
    code, _, err = predict(odd, "-o", "out.csv")
    assert code == 0, err
    (row,) = read_table((folder / "out.csv").read_bytes().decode("utf-8"))
    assert row["input"] == 'a,"b"\\udcff.png'


def test_closed_pipe(server: Any, folder: Path) -> None:
    """`| head` ends the command quietly."""
    np.save(folder / "big.npy", np.tile(PICTURES, (2000, 1, 1)))
    shell = f"set -o pipefail; {sys.executable} -m topclass predict big.npy --server {server.address} | head -1"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, HEADER + "\n", "")


def test_progress_on_a_terminal(server: Any, folder: Path) -> None:
    """On a terminal a bar shows how far it is and how fast, and only the last line stays."""
    np.save(folder / "big.npy", np.tile(PICTURES, (300, 1, 1)))
    terminal, inner = pty.openpty()
    arguments = ["big.npy", "-o", "out.csv", "--batch-size", "4", "--server", server.address]
    command = [sys.executable, "-m", "topclass", "predict", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment(TERM="xterm"), stderr=inner) as process:
        os.close(inner)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while data := os.read(terminal, 4096):
                shown += data
    os.close(terminal)
    assert process.returncode == 0
    text = shown.decode()
    assert re.search(r"pets v1 .*\d+/2700", text)
    assert "rows/s" in text.rpartition("2,700 rows in")[0]
    assert text.rstrip().endswith("0 errors → out.csv; pets v1")


def test_message_limit(serve: Callable[..., Any], repository: Path, folder: Path) -> None:
    """A server that takes only small messages gets smaller ones."""
    server = serve(models=repository, max_message_bytes=1024)
    np.save(folder / "big.npy", np.tile(PICTURES, (20, 1, 1)))
    code, out, err = topclass("predict", "big.npy", "--batch-size", "100", "--server", server.address, cwd=folder)
    assert code == 0, err
    holds(out, [f"big.npy[{row}]" for row in range(180)], np.tile(PROBABILITIES, (20, 1)))


def test_row_limit(serve: Callable[..., Any], repository: Path, folder: Path) -> None:
    """Batches are never larger than the server says that it takes."""
    server = serve(models=repository, max_request_rows=2)
    code, out, err = topclass("predict", "all.npy", "--server", server.address, cwd=folder)
    assert code == 0, err
    holds(out, [f"all.npy[{row}]" for row in range(9)])


def test_a_full_server_is_waited_for(fake: Fake) -> None:
    """A server that is full for a while, and says when to come back, does not end the run."""
    fake.failures = [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "5"),))] * 3
    asking = Asking(ModelDetails(ModelInfo("pets", 1, "ready", "", SHA256, "", True), None, LABELS, {}, 9))  # type: ignore[arg-type]
    with Client(fake.address) as client:
        (answers,) = by_servers(client, [Chunk(["a", "b"], PICTURES[:2])], asking)
    assert (answers.errors, answers.values.top_class.tolist()) == ({}, [0, 1])


def test_several_servers(serve: Callable[..., Any], repository: Path, folder: Path) -> None:
    """Several servers share the work, and one that is away leaves it to the other."""
    here, there = serve(models=repository).address, serve(models=repository).address
    for servers in ((here, there), (f"{here},{there}", "127.0.0.1:1")):
        flags = [flag for server in servers for flag in ("--server", server)]
        code, out, err = topclass("predict", "all.npy", "--batch-size", "1", *flags, cwd=folder)
        assert code == 0, err
        holds(out, [f"all.npy[{row}]" for row in range(9)])
