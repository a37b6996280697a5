"""Fixtures: the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, transport: str) -> Iterator[Start]:
    """A function that runs `python -m server` with flags; every process is ended after the test."""
    running: list[subprocess.Popen[str]] = []

    def run(*flags: str, **environment: str) -> subprocess.Popen[str]:
        ports = ["--grpc-port", "0", "--http-port", "0"]
        ports += ["--transport", transport]
        command = [sys.executable, "-m", "server", *ports, "--ready-file", str(tmp_path / "ready"), *flags]
        running.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()
