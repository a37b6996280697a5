"""Experiment trackers: one flag each, and one line where the package is not there."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.training.test_commands import TINY, finished, run
from training import arguments, trackers
from training.errors import UsageError
from training.networks import find


@pytest.mark.parametrize("flag", trackers.TRACKERS)
def test_a_tracker_that_is_not_installed_is_one_line(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work: which flag, and the command that installs what it needs."""
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=f"--{flag} needs a package that is not installed: pip install -c"):
        trackers.check(arguments.parse(find("mlp"), [f"--{flag}"]))
    trackers.check(arguments.parse(find("mlp"), []))


@pytest.mark.tensorflow
@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed (requirements-trackers.txt)")
def test_tensorboard_gets_the_curves(tmp_path: Path) -> None:
    """--tensorboard writes event files into the run."""
    folder, _ = finished(run("training.mlp", tmp_path, *TINY, "--tensorboard"))
    assert [path for path in (folder / "tensorboard").rglob("events.out.*") if path.stat().st_size > 100]


@pytest.mark.tensorflow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed (requirements-trackers.txt)")
def test_mlflow_gets_arguments_and_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--mlflow writes an experiment called as the model, with the settled arguments and the loss of each epoch.

    A store that MLflow refuses is one line, with MLflow's own words, before the fit.
    """
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    refused = run("training.mlp", tmp_path, *TINY, "--mlflow")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("error: --mlflow: The filesystem tracking backend")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    finished(run("training.mlp", tmp_path, *TINY, "--mlflow"))
    written = {path.name for path in (tmp_path / "mlruns").rglob("*") if path.is_file()}
    assert {"loss", "val_loss", "learning_rate", "epochs"} <= written
