"""Interruptions: what is lost is at most the epoch that was being computed."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_commands import ROOT, command, finished, run
from training import progress

# Dropout and Adam have a memory of their own, which must survive too; patience ends the fit before the last epoch.
TINY = ("mlp", "--limit", "300", "--epochs", "12", "--hidden", "16", "--dropout", "0.3", "--batch-norm", "yes")


def weights(folder: Path) -> list[np.ndarray]:
    """All weights of a run's model."""
    keras = pytest.importorskip("keras")
    found: list[np.ndarray] = keras.saving.load_model(folder / "model.keras").get_weights()
    return found


def kill_after(epoch: int, folder: Path, *words: str) -> None:
    """Start the command and kill it, as kill -9 does, once that epoch is on the disk."""
    process = subprocess.Popen(command("training", folder, *words), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"Epoch {epoch + 1}/"):
            break
    process.send_signal(signal.SIGKILL)
    process.stderr.close()
    assert process.wait(30) == -signal.SIGKILL


@pytest.mark.tensorflow
def test_a_killed_fit_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Killed twice with kill -9 and started again, it ends bit for bit as one that was left alone, curves included."""
    undisturbed, alone = finished(run("training", tmp_path / "a", *TINY))
    kill_after(3, tmp_path / "b", *TINY)
    kill_after(7, tmp_path / "b", *TINY)
    done = run("training", tmp_path / "b", *TINY)
    killed, metrics = finished(done)
    assert "going on in" in done.stderr
    assert "after epoch" in done.stderr
    assert len(list((tmp_path / "b" / "runs" / "digits-mlp").glob("*"))) == 1
    assert all(np.array_equal(one, two) for one, two in zip(weights(undisturbed), weights(killed), strict=True))
    assert (killed / "history.csv").read_text() == (undisturbed / "history.csv").read_text()
    assert metrics["metrics"] == alone["metrics"]
    assert not (killed / progress.UNFINISHED).exists()


@pytest.mark.tensorflow
def test_a_series_of_seeds_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed in the second of three seeds, it trains the second on and the third, and never the first again."""
    words = ("mlp", "--limit", "300", "--epochs", "4", "--hidden", "8", "--seeds", "3")
    process = subprocess.Popen(command("training", tmp_path, *words), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = False
    for line in process.stderr:
        first |= line.startswith("seed 0: ")
        if first and line.startswith("Epoch 3/"):
            break
    process.kill()
    process.stderr.close()
    process.wait(30)
    done = run("training", tmp_path, *words)
    folder, metrics = finished(done)
    assert "verdict: median test accuracy of 3 seeds (" in done.stderr.splitlines()[-1]
    assert done.stderr.count("Epoch 1/") == 1
    runs = json.loads((folder / "seeds.json").read_text())
    accuracies = sorted(accuracy for _, accuracy in runs["runs"].values())
    assert (len(accuracies), runs["median"]) == (3, accuracies[1])
    assert metrics["metrics"]["test"]["accuracy"] == accuracies[1]
    assert len(list((tmp_path / "runs" / "digits-mlp").glob("2*"))) == 3


def test_an_unfinished_run_is_claimed_once(tmp_path: Path) -> None:
    """Two commands at once get two folders; a third, after one has gone, gets that one's; another key gets neither."""
    one = progress.claim(tmp_path, "m", "key", fresh=False)
    two = progress.claim(tmp_path, "m", "key", fresh=False)
    assert one.folder != two.folder
    one._lock.close()  # as a killed process leaves it
    other = progress.claim(tmp_path, "m", "another", fresh=False)
    assert other.folder not in (one.folder, two.folder)
    anew = progress.claim(tmp_path, "m", "key", fresh=True)
    assert anew.folder not in (one.folder, two.folder)
    again = progress.claim(tmp_path, "m", "key", fresh=False)
    assert again.folder == one.folder


def test_a_run_that_is_complete_is_not_gone_on_with(tmp_path: Path) -> None:
    """Killed between metrics.json and tidying up, it is complete: the next command begins another."""
    one = progress.claim(tmp_path, "m", "key", fresh=False)
    (one.folder / "metrics.json").write_text("{}")
    one._lock.close()
    assert progress.claim(tmp_path, "m", "key", fresh=False).folder != one.folder


@pytest.mark.tensorflow
def test_a_damaged_state_begins_anew(tmp_path: Path) -> None:
    """Bytes lost on the disk cost the epochs, not the run: a note says so, and the fit begins again."""
    words = ("mlp", "--limit", "300", "--epochs", "5", "--hidden", "8")
    kill_after(3, tmp_path, *words)
    (state,) = tmp_path.rglob("state.npz")
    state.write_bytes(state.read_bytes()[:200])
    started = time.monotonic()
    done = run("training", tmp_path, *words)
    finished(done)
    assert "is damaged, so the fit begins anew" in done.stderr
    assert "Epoch 1/" in done.stderr
    assert time.monotonic() - started < 120
