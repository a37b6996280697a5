"""`python -m training compare`: a table of runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from training import compare


def write(folder: Path, run: str, **changes: Any) -> Path:
    """A run folder with nothing but its metrics.json."""
    metrics = {
        "model": "m",
        "run": run,
        "arguments": {"epochs": 3, "seed": 0, "runs": str(folder)} | changes.pop("arguments", {}),
        "metrics": {"test": {"accuracy": 0.9, "accuracy_interval": [0.88, 0.92], "log_loss": 0.25, "ece": 0.01}},
        "out_of_distribution": {"threshold": 1.0, "strange": {"a": {"refused": 1.0}, "b": {"refused": 0.98}}},
        "seconds": {"fit": 12.4},
    }
    (folder / run).mkdir(parents=True)
    (folder / run / "metrics.json").write_text(json.dumps(metrics | changes))
    return folder / run


def test_a_table_has_what_differs_and_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each run, a column for each argument in which they differ, and the figures; the worst kind counts."""
    write(tmp_path, "one")
    write(tmp_path, "two", arguments={"epochs": 5}, metrics={"test": {}}, out_of_distribution={"threshold": None})
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    head, one, two = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["model", "run", "epochs", "accuracy"]
    assert "seed" not in head
    assert one.split() == ["m", "one", "3", "90.00%", "88.0%", "to", "92.0%", "0.2500", "1.00%", "98.00%", "12", "s"]
    assert two.split() == ["m", "two", "5", "-", "-", "-", "-", "-", "12", "s"]


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Complete runs at any depth, in order."""
    write(tmp_path / "b", "two")
    write(tmp_path / "a", "one")
    (tmp_path / "a" / "unfinished").mkdir()
    assert compare.main([str(tmp_path)]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["run", "one", "two"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no complete run: it has no metrics.json"),
        ("{", "cannot be read"),
        ("[]", "is not what training writes"),
        ('{"metrics": 3}', "is not what training writes"),
    ],
)
def test_what_is_no_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, words: str
) -> None:
    """A folder without metrics.json, or with rubbish in it: status 1 and one line that names it."""
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert compare.main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert str(tmp_path) in said.err
    assert said.err.count("\n") == 1
