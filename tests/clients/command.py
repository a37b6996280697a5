"""Running the command `topclass` as a shell does."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """The environment of a shell that has no settings of topclass in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOPCLASS_")}
    path = os.pathsep.join([str(ROOT / "clients"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**kept, "PYTHONPATH": path, "COLUMNS": "80", **more}


def start(*arguments: str, cwd: Path, **more: str) -> subprocess.Popen[str]:
    """The command, running, with its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "topclass", *arguments],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def topclass(*arguments: str, cwd: Path, **more: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error; `more` is added to the environment."""
    with start(*arguments, cwd=cwd, **more) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def read_table(text: str) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    return list(csv.DictReader(text.splitlines()))
