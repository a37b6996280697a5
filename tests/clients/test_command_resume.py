"""A job that is stopped: by a kill, a signal, a server that dies, a model that changes, a disk that is full."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.clients.command import environment, read_table, start, topclass
from tests.clients.test_predict import PICTURES, PROBABILITIES, png

COPIES = 300
ROWS = len(PICTURES) * COPIES
KILLS = 50
Predict = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one array, large enough to be stopped in its middle."""
    folder = tmp_path / "work"
    folder.mkdir()
    np.save(folder / "big.npy", np.tile(PICTURES, (COPIES, 1, 1)))
    return folder


@pytest.fixture
def arguments(server: Any) -> tuple[str, ...]:
    """A command that takes a while."""
    return ("predict", "big.npy", "-o", "out.csv", "--batch-size", "2", "--window", "2", "--server", server.address)


def until(condition: Callable[[], Any]) -> None:
    """Wait until it holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def certain(folder: Path, output: str = "out.csv") -> int:
    """The rows that the journal is certain of."""
    state = folder / f".{output}.topclass" / "state"
    try:
        return int(json.loads(state.read_text())["rows"])
    except FileNotFoundError:
        return 0


def stopped(folder: Path, arguments: tuple[str, ...], by: int = signal.SIGKILL) -> tuple[int, str]:
    """Run the command, and end it by a signal when some rows are certain; its status and what it said."""
    with start(*arguments, cwd=folder) as process:
        until(lambda: certain(folder, arguments[3]) > 0)
        process.send_signal(by)
        _, err = process.communicate(timeout=30)
    return process.returncode, err


def only(folder: Path, *names: str) -> None:
    """The folder has these files and no others."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def _command(folder: str, arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    from topclass.commands import run

    os._exit(run(arguments))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_killed_at_any_moment(server: Any, folder: Path, ending: str) -> None:
    """Killed fifty times at random moments, the same command gives the table of an undisturbed run, byte for byte."""
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    broken = np.tile(PICTURES, (3, 1, 1))
    for row in range(27):
        (folder / f"{row:02}.png").write_bytes(b"no picture" if row % 10 == 3 else png(broken[row]))
    inputs = ("big.npy", *(f"{row:02}.png" for row in range(27)))
    line = ("predict", *inputs, "-o", f"out.{ending}", "--batch-size", "3", "--server", server.address)
    # Children of a process that has loaded all begin in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["topclass.commands", *(["pyarrow.parquet"] if ending == "parquet" else [])])
    names = [f"out.{ending}", f"out.{ending}.errors.csv"]

    def launch() -> Any:
        process = context.Process(target=_command, args=(str(folder), line), daemon=True)
        process.start()
        return process

    def finish(process: Any) -> list[bytes]:
        process.join(60)
        assert process.exitcode == 3
        written = [(folder / name).read_bytes() for name in names]
        assert not list(folder.glob(".*"))
        for name in names:
            (folder / name).unlink()
        return written

    start = time.monotonic()
    undisturbed = finish(launch())
    took = time.monotonic() - start
    dice, kills, finished, gone_on = random.Random(ending), 0, 0, 0
    # All kinds share fifty kills in each, but Parquet, whose end alone differs, has fewer.
    while kills < (KILLS if ending == "csv" else KILLS // 5):
        before = certain(folder, f"out.{ending}")
        process = launch()
        process.join(dice.uniform(0, took * 0.7))
        if process.exitcode is not None:
            assert finish(process) == undisturbed
            finished += 1
            continue
        process.kill()
        process.join(60)
        kills += 1
        gone_on += before > 0
    assert finish(launch()) == undisturbed
    assert gone_on > kills // 10


@pytest.mark.parametrize(("number", "code", "words"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "")])
def test_stopped(folder: Path, arguments: tuple[str, ...], number: int, code: int, words: str) -> None:
    """A run that is stopped leaves the old table alone, says what is kept, and the same command completes it."""
    (folder / "out.csv").write_text("from yesterday")
    status, err = stopped(folder, arguments, number)
    assert status == code
    assert words in err
    assert "Traceback" not in err
    assert re.search(r"[\d,]+ rows are kept; the same command goes on from there", err)
    assert (folder / "out.csv").read_text() == "from yesterday"
    rows = certain(folder)
    code, out, err = topclass(*arguments, cwd=folder)
    assert (code, out) == (0, "")
    assert f"{rows:,} rows are there already; going on behind them" in err
    assert re.search(rf"{ROWS:,} rows, {ROWS - rows:,} of them now, in .* 0 errors → out\.csv; pets v1", err)
    whole(folder)
    only(folder, "big.npy", "out.csv")


def whole(folder: Path, rows: int = ROWS) -> None:
    """out.csv has every row of big.npy once, in order, with its probabilities."""
    table = read_table((folder / "out.csv").read_text())
    assert [row["input"] for row in table] == [f"big.npy[{row}]" for row in range(rows)]
    found = np.array([[float(row[f"p_{label}"]) for label in models.LABELS] for row in table])
    np.testing.assert_allclose(found, np.tile(PROBABILITIES, (COPIES, 1))[:rows], atol=1e-6)


def test_two_at_once(folder: Path, arguments: tuple[str, ...]) -> None:
    """A second run on the same output is refused while the first lives, and goes on when that was killed."""
    with start(*arguments, cwd=folder) as first:
        until(lambda: certain(folder) > 0)
        code, _, err = topclass(*arguments, cwd=folder)
        assert code == 1
        assert f"out.csv is being written by another topclass (process {first.pid})" in err
        first.kill()
    assert topclass(*arguments, cwd=folder)[0] == 0
    whole(folder)


def test_other_inputs(folder: Path, arguments: tuple[str, ...]) -> None:
    """Inputs that changed, and other options, are refused with what is different; --restart begins anew."""
    stopped(folder, arguments)
    code, _, err = topclass(*arguments, "--top-k", "2", cwd=folder)
    assert code == 1
    assert "was begun with another --top-k (0, now 2)" in err
    code, _, err = topclass(*(a if a != "big.npy" else "./big.npy" for a in arguments), cwd=folder)
    assert "big.npy is gone, ./big.npy is new" in err
    np.save(folder / "big.npy", PICTURES)
    code, _, err = topclass(*arguments, cwd=folder)
    assert code == 1
    assert "the inputs are not what they were when out.csv was begun: big.npy has changed. --restart begins" in err
    assert topclass(*arguments, "--restart", cwd=folder)[0] == 0
    whole(folder, 9)


def test_more_pictures(folder: Path, server: Any) -> None:
    """A picture that was added to a folder, or taken from it, is named."""
    (folder / "pics").mkdir()
    for row in range(400):
        (folder / "pics" / f"{row:03}.png").write_bytes(png(PICTURES[row % 9]))
    arguments = ("predict", "pics", "-o", "out.csv", "--batch-size", "1", "--window", "1", "--server", server.address)
    stopped(folder, arguments)
    (folder / "pics" / "100.png").rename(folder / "pics" / "100b.png")
    code, _, err = topclass(*arguments, cwd=folder)
    assert code == 1
    assert "pics/100.png is gone, pics/100b.png is new. --restart" in err


def process(repository: Path, ready: Path, port: int = 0) -> subprocess.Popen[bytes]:
    """A server in a process of its own."""
    flags = ["--models", str(repository), "--grpc-port", str(port), "--ready-file", str(ready), "--device", "cpu"]
    command = [sys.executable, "-m", "server", *flags, "--http-port", "-1", "--stop-delay-seconds", "0"]
    started = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    until(ready.exists)
    return started


def test_server_that_dies(repository: Path, folder: Path) -> None:
    """When the server is killed, the command says so and exits with 1; with the server back, it completes the table."""
    ready = folder.parent / "ready.json"
    with process(repository, ready) as server:
        address = json.loads(ready.read_text())["grpc"]
        arguments = ("predict", "big.npy", "-o", "out.csv", "--batch-size", "2", "--timeout", "2", "--server", address)
        with start(*arguments, cwd=folder) as command:
            until(lambda: certain(folder) > 0)
            server.kill()
            _, err = command.communicate(timeout=30)
    assert command.returncode == 1
    assert f"no answer from a topclass server at {address}" in err
    assert "rows are kept" in err
    assert "Traceback" not in err
    ready.unlink()
    with process(repository, ready, int(address.rpartition(":")[2])) as server:
        assert topclass(*arguments, cwd=folder)[0] == 0
        server.kill()
    whole(folder)


def test_server_that_restarts(repository: Path, folder: Path) -> None:
    """A server that is killed and comes back within the timeout is waited for, without another command."""
    ready = folder.parent / "ready.json"
    server = process(repository, ready)
    address = json.loads(ready.read_text())["grpc"]
    with start("predict", "big.npy", "-o", "out.csv", "--batch-size", "2", "--server", address, cwd=folder) as command:
        until(lambda: certain(folder) > 0)
        server.kill()
        server.wait(10)
        ready.unlink()
        with process(repository, ready, int(address.rpartition(":")[2])) as again:
            _, err = command.communicate(timeout=60)
            again.kill()
    assert command.returncode == 0, err
    whole(folder)


def test_model_that_changes(serve: Callable[..., Any], repository: Path, folder: Path) -> None:
    """A model that went away is refused; with --allow-model-change another finishes, and the rows say which."""
    server = serve(models=repository, version_policy="latest:1")
    arguments = ("predict", "big.npy", "-o", "out.csv", "--batch-size", "2", "--server", server.address)
    with start(*arguments, cwd=folder) as command:
        until(lambda: certain(folder) > 0)
        models.put(repository, "pets", 2, models.classifier(seed=4))
        server.refresh()
        _, err = command.communicate(timeout=30)
    assert command.returncode == 1
    assert "pets v1 went away in the middle" in err
    rows = certain(folder)
    code, _, err = topclass(*arguments, cwd=folder)
    assert code == 1
    assert "the unfinished out.csv is by pets v1" in err
    assert "--allow-model-change" in err
    models.put(repository, "pets", 3, models.classifier(classes=4))
    server.refresh()
    code, _, err = topclass(*arguments, "--allow-model-change", cwd=folder)
    assert code == 1
    assert "with other labels: one table cannot hold both" in err
    models.put(repository, "pets", 4, models.with_card(models.classifier(seed=4), golden=None))
    server.refresh()
    code, _, err = topclass(*arguments, "--allow-model-change", cwd=folder)
    assert code == 0, err
    assert f"The rows from {rows:,} on are by that" in err
    versions = [row["version"] for row in read_table((folder / "out.csv").read_text())]
    assert versions == ["1"] * rows + ["4"] * (ROWS - rows)


def test_one_version_for_all_rows(server: Any, repository: Path, folder: Path, arguments: tuple[str, ...]) -> None:
    """When a new version goes live between two runs and the old one is still served, every row is the old one's."""
    stopped(folder, arguments)
    models.put(repository, "pets", 2, models.with_card(models.classifier(seed=4), golden=None))
    server.refresh()
    code, _, err = topclass(*arguments, cwd=folder)
    assert code == 0, err
    whole(folder)
    assert {row["version"] for row in read_table((folder / "out.csv").read_text())} == {"1"}


def test_full_disk(folder: Path, server: Any) -> None:
    """A disk that is full ends the run with one clear line; with room again, the same command completes the table."""
    arguments = ("predict", "big.npy", "-o", "out.csv", "--server", server.address)
    command = [sys.executable, "-m", "topclass", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"topclass: .*(File too large)", done.stderr)
    assert "Traceback" not in done.stderr
    assert not (folder / "out.csv").exists()
    assert topclass(*arguments, cwd=folder)[0] == 0
    whole(folder)


def test_strict(folder: Path, server: Any) -> None:
    """--strict stops at the first bad row and names it; without it, the same command goes on."""
    for row in range(9):
        (folder / f"{row}.png").write_bytes(b"" if row == 4 else png(PICTURES[row]))
    inputs = [f"{row}.png" for row in range(9)]
    arguments = ("predict", *inputs, "-o", "out.csv", "--batch-size", "2", "--server", server.address)
    code, _, err = topclass(*arguments, "--strict", cwd=folder)
    assert code == 1
    assert "topclass: 4.png: is empty" in err
    assert "4 rows are kept" in err
    assert topclass(*arguments, cwd=folder)[0] == 3
    assert [bool(row["error"]) for row in read_table((folder / "out.csv").read_text())] == [r == 4 for r in range(9)]
    assert (folder / "out.csv.errors.csv").read_text() == "row,input,error\n4,4.png,is empty\n"


def test_standard_input_goes_on(folder: Path, server: Any) -> None:
    """What comes on standard input must be the same rows again, and then goes on behind them."""
    lines = [json.dumps(picture.ravel().tolist()) for picture in np.tile(PICTURES, (100, 1, 1))]
    arguments = ["predict", "-", "--input-format", "jsonl", "-o", "out.csv", "--batch-size", "2", "--strict"]
    command = [sys.executable, "-m", "topclass", *arguments, "--server", server.address]

    def piped(text: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=folder, env=environment(), input="\n".join(text), capture_output=True, text=True, check=False
        )

    broken = piped([*lines[:500], "{", *lines[501:]])
    assert broken.returncode == 1
    assert "-[500]: is no JSON" in broken.stderr
    other = piped([*reversed(lines[:500]), *lines[500:]])
    assert other.returncode == 1
    assert "standard input does not give the rows that it gave before" in other.stderr
    assert piped(lines).returncode == 0
    table = read_table((folder / "out.csv").read_text())
    assert [row["input"] for row in table] == [f"-[{row}]" for row in range(900)]
