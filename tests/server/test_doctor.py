"""`python -m server doctor` names what is wrong and what cures it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server import device, doctor

ROOT = Path(__file__).parents[2]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    return subprocess.run([sys.executable, "-m", "server", "doctor", *flags], cwd=ROOT, capture_output=True, text=True)


def test_a_sound_environment_has_no_problem() -> None:
    """Exit status 0; versions, processors, providers and the device chosen, in at most 80 columns."""
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("python ", "grpcio ", "processors ", "the server computes with", "providers ", "no problem found"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.skipif(device.CUDA in device.built_in(), reason="onnxruntime-gpu is installed")
def test_cuda_that_cannot_be_had_is_a_problem_with_a_cure() -> None:
    """Exit status 1, the cause and the cure."""
    done = run("--device", "cuda")
    assert done.returncode == 1
    assert "! device" in done.stdout
    assert "cure: install onnxruntime-gpu (server/requirements-gpu.txt)" in " ".join(done.stdout.split())
    assert "1 problem found" in done.stdout


def test_both_flavours_of_onnxruntime_in_one_environment_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one installed wins in silence, and removing one breaks the other: the doctor says so."""
    monkeypatch.setattr(doctor, "_version", lambda _: "1.31.1")
    text, sound = doctor.report("cpu")
    assert not sound
    assert "both onnxruntime and onnxruntime-gpu are installed" in " ".join(text.split())


def test_a_wrong_device_is_a_usage_error() -> None:
    """Exit status 2."""
    done = run("--device", "tpu")
    assert done.returncode == 2
    assert "device is 'tpu'; it must be auto, cpu, cuda or cuda:N" in done.stderr
