"""The whole path as users walk it: every part is run as a command, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.test_neighbours import until

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def run_module(*words: str, expect: int = 0) -> str:
    """Runs `python WORDS` in the checkout and gives the last line of its stdout; another exit status fails the test."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == expect, done.stdout + done.stderr
    lines = (done.stdout if expect == 0 else done.stdout + done.stderr).strip().splitlines()
    return lines[-1] if lines else ""


def data_folder() -> Path | None:
    """Where mnist.npz lies: TOPCLASS_DATA, or a folder `data` beside the checkout or in a folder beside it."""
    beside = [*ROOT.parent.glob("data"), *ROOT.parent.glob("*/data")]
    named = [Path(os.environ["TOPCLASS_DATA"])] if os.environ.get("TOPCLASS_DATA") else []
    return next((folder for folder in [*named, *beside] if (folder / "mnist.npz").is_file()), None)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """A function that serves a repository in a process of its own and gives its address; ended after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(models: Path) -> str:
        ready = tmp_path / f"ready-{len(running)}"
        command = [sys.executable, "-m", "server", "--models", str(models), "--grpc-port", "0", "--http-port", "0"]
        flags = ["--ready-file", str(ready), "--watch-seconds", "0.2", "--stop-delay-seconds", "0"]
        running.append(subprocess.Popen([*command, *flags], cwd=ROOT))
        until(ready.exists)
        address: str = json.loads(ready.read_text())["grpc"]
        return address

    yield start
    for process in running:
        process.terminate()
        assert process.wait(30) == 0
