"""The commands as a person or a script runs them: real processes, tiny runs."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TINY = ("--limit", "200", "--epochs", "1")
FILES = {
    *("model.keras", "samples.npz", "test.npz", "history.csv", "environment.json", "recipe.py", "metrics.json"),
    *("report.html", "curve_loss.png", "curve_accuracy.png", "confusion_matrix.png", "mistakes.png"),
    *("reliability.png", "first_layer.png"),
}


def command(recipe: str, folder: Path, *flags: str) -> list[str]:
    """The command line of a recipe with its runs in this folder."""
    return [sys.executable, "-m", recipe, *flags, "--runs", str(folder / "runs")]


def run(recipe: str, folder: Path, *flags: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a recipe to its end, without the caller's TOPCLASS_DATA."""
    environment = {key: value for key, value in os.environ.items() if key != "TOPCLASS_DATA"}
    return subprocess.run(
        command(recipe, folder, *flags),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def finished(done: subprocess.CompletedProcess[str]) -> tuple[Path, dict[str, Any]]:
    """The run folder and metrics of a command that succeeded."""
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.rstrip("\n"))
    return folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One tiny run, shared by the tests that only look at it."""
    return run("training.mlp", tmp_path_factory.mktemp("tiny"), *TINY)


@pytest.mark.tensorflow
def test_stdout_is_the_run_folder_alone(tiny: subprocess.CompletedProcess[str]) -> None:
    """RUN=$(python -m training.mlp) works: one line, an existing folder; progress and verdict are on stderr."""
    folder, _ = finished(tiny)
    assert tiny.stdout.count("\n") == 1
    assert folder.is_dir()
    assert "Epoch" in tiny.stderr or "step" in tiny.stderr
    assert tiny.stderr.splitlines()[-1].startswith("verdict: test accuracy")
    assert "oneDNN" not in tiny.stderr


@pytest.mark.tensorflow
def test_the_run_folder_is_complete(tiny: subprocess.CompletedProcess[str]) -> None:
    """The folder holds every file of the contract and nothing half-written, and metrics.json says what it must."""
    folder, metrics = finished(tiny)
    assert {path.name for path in folder.iterdir()} == FILES
    assert (metrics["schema"], metrics["model"], metrics["run"]) == (1, "digits-mlp", folder.name)
    assert metrics["recipe"] == "training.mlp"
    assert metrics["input"] == {"kind": "image", "height": 28, "width": 28, "channels": 1}
    assert metrics["labels"] == list("0123456789")
    assert metrics["data"]["sizes"] == {"train": 200, "validation": 143, "test": 359}
    assert metrics["arguments"]["limit"] == 200
    assert set(metrics["metrics"]) == {"validation", "test"}
    assert set(metrics["seconds"]) == {"data", "fit", "evaluate"}
    assert metrics["versions"]["keras"]
    with (folder / "history.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]
    assert (folder / "recipe.py").read_text() == (ROOT / "training/networks/mlp.py").read_text()


@pytest.mark.tensorflow
def test_the_saved_model_takes_raw_pictures(tiny: subprocess.CompletedProcess[str]) -> None:
    """The saved model turns the saved test pictures, 0..255, into the accuracy that metrics.json reports."""
    keras = pytest.importorskip("keras")
    folder, metrics = finished(tiny)
    test, samples = np.load(folder / "test.npz"), np.load(folder / "samples.npz")
    answers = np.asarray(keras.saving.load_model(folder / "model.keras")(test["inputs"], training=False))
    assert (answers.argmax(axis=1) == test["labels"]).mean() == pytest.approx(metrics["metrics"]["test"]["accuracy"])
    assert answers.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    for part in (test, samples):
        assert part["inputs"].dtype == np.uint8
        assert part["labels"].dtype == np.int64
    assert len(samples["labels"]) == 143


@pytest.mark.tensorflow
def test_the_report_needs_nothing_else(tiny: subprocess.CompletedProcess[str]) -> None:
    """report.html carries its pictures inside it, fits a phone, and follows light and dark."""
    page = (finished(tiny)[0] / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.partition("<details>")[0]
    assert 'name="viewport"' in page
    assert page.count("prefers-color-scheme: dark") >= 4
    assert page.count("data:image/png;base64,") >= 6


@pytest.mark.tensorflow
def test_the_same_seed_gives_the_same_weights(tiny: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    """The same command again gives the same answers bit for bit; another seed gives others."""
    keras = pytest.importorskip("keras")
    runs = [tiny, run("training.mlp", tmp_path, *TINY), run("training.mlp", tmp_path, *TINY, "--seed", "1")]
    weights = [keras.saving.load_model(finished(done)[0] / "model.keras").get_weights() for done in runs]
    assert all(np.array_equal(one, two) for one, two in zip(weights[0], weights[1], strict=True))
    assert not np.array_equal(weights[0][0], weights[2][0])


@pytest.mark.tensorflow
def test_the_cnn_takes_colour_pictures(tmp_path: Path) -> None:
    """A user's colour pictures train the CNN, whose report is held together by names of any kind."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 12, 16, 3), dtype=np.uint8)
    labels = np.array(["<b>$x$", "日本", "c"])[np.arange(60) % 3]
    np.savez(tmp_path / "own.npz", x=pictures, y=labels)
    folder, metrics = finished(run("training.cnn", tmp_path, "--data", str(tmp_path / "own.npz"), "--epochs", "1"))
    assert metrics["model"] == "own-cnn"
    assert metrics["input"] == {"kind": "image", "height": 12, "width": 16, "channels": 3}
    assert metrics["labels"] == ["<b>$x$", "c", "日本"]
    assert "<b>$x$" not in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.tensorflow
def test_the_mlp_takes_tables(tmp_path: Path) -> None:
    """A user's table trains the MLP: scaled by what was seen in training, features named, no pictures of mistakes."""
    rng = np.random.default_rng(0)
    table = rng.normal(1000, 300, (200, 2)).astype(np.float32)
    np.savez(tmp_path / "own.npz", x=table, y=(table[:, 0] > 1000).astype(int), features=np.array(["income", "debt"]))
    done = run("training.mlp", tmp_path, "--data", str(tmp_path / "own.npz"), "--epochs", "20", "--target", "0.7")
    folder, metrics = finished(done)
    assert metrics["input"] == {"kind": "table", "features": ["income", "debt"]}
    assert np.load(folder / "test.npz")["inputs"].dtype == np.float32
    assert not (folder / "mistakes.png").exists()


@pytest.mark.tensorflow
def test_a_missed_target_is_a_failure_with_a_verdict(tmp_path: Path) -> None:
    """Below --target the command exits 1 and says so; the run is complete all the same, and named."""
    done = run("training.mlp", tmp_path, *TINY, "--target", "0.999")
    assert done.returncode == 1
    assert "is BELOW the target of 99.90%" in done.stderr.splitlines()[-1]
    assert (Path(done.stdout.strip()) / "metrics.json").exists()


@pytest.mark.tensorflow
def test_a_fit_that_runs_away_is_one_line(tmp_path: Path) -> None:
    """A learning rate beyond reason ends with status 1 and a hint, and no complete run."""
    done = run("training.mlp", tmp_path, *TINY, "--learning-rate", "1e30")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the loss is not finite: the fit ran away; try a lower")
    assert done.stdout == ""
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.tensorflow
def test_ctrl_c_leaves_no_complete_run(tmp_path: Path) -> None:
    """SIGINT in the middle of the fit: status 130, one line, no traceback, no metrics.json."""
    process = subprocess.Popen(
        command("training.mlp", tmp_path, "--epochs", "100000", "--patience", "100000"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Epoch 3/"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert (
        err.splitlines()[-1]
        == "stopped by Ctrl-C; the run is not complete: the same command goes on from its last whole epoch"
    )
    assert "Traceback" not in err
    assert list(tmp_path.rglob("runs/digits-mlp/*"))
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.tensorflow
def test_runs_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    """Where --runs lies under a file, the command ends with status 1 before the fit and names the place."""
    (tmp_path / "runs").write_text("in the way")
    done = run("training.mlp", tmp_path, *TINY)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: the run cannot be written to {tmp_path / 'runs'}: ")
    assert "Traceback" not in done.stderr
    assert "Epoch" not in done.stderr


@pytest.mark.tensorflow
def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    """Where files cannot grow past 100 kB, the model cannot be saved: status 1, one line, no complete run."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run("training.mlp", tmp_path, *TINY, preexec_fn=small_files)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: the run cannot be written to {tmp_path / 'runs'}: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("metrics.json"))


def test_help_and_the_list_need_no_tensorflow() -> None:
    """--help of the old doors and of the new one, and the list of networks, answer without TensorFlow."""
    for words in (["-m", "training.mlp", "--help"], ["-m", "training", "cnn", "--help"], ["-m", "training"]):
        blocked = (
            "import sys, runpy; sys.modules['tensorflow'] = sys.modules['keras'] = None; "
            f"sys.argv = {['x', *words[2:]]!r}; runpy.run_module({words[1]!r}, run_name='__main__')"
        )
        done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "--seed" in done.stdout or "lenet" in done.stdout


def test_an_unknown_network_is_one_line() -> None:
    """`python -m training lenett` ends with status 2, names all there are, and guesses."""
    done = subprocess.run([sys.executable, "-m", "training", "lenett"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip().endswith("did you mean lenet?")


def test_broken_data_are_refused_at_once(tmp_path: Path) -> None:
    """Bad data end with status 1 and one line, before TensorFlow is loaded and before a folder is made."""
    table = tmp_path / "table.npz"
    np.savez(table, x=np.zeros((20, 2), np.float32), y=np.arange(20) % 2)
    tiny_pictures = tmp_path / "dots.npz"
    np.savez(tiny_pictures, x=np.zeros((20, 4, 4), np.uint8), y=np.arange(20) % 2)
    cases = {
        str(tmp_path / "gone.npz"): f"error: {tmp_path / 'gone.npz'}: no such file\n",
        str(table): "error: table is a table; the cnn expects pictures (python -m training mlp takes tables)\n",
        str(tiny_pictures): "error: dots has pictures of 4x4; the cnn expects 8x8 or more\n",
    }
    for source, words in cases.items():
        done = run("training.cnn", tmp_path, "--data", source)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", words)
    assert not (tmp_path / "runs").exists()
