"""The run folder: what training leaves on disk, and what export and retrain read."""

import argparse
import csv
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from training import arguments as flags
from training.assess import Assessment
from training.data import Dataset, Part

SCHEMA = 1
SAMPLES = 1000
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "scikit-learn", "matplotlib", "pillow")


@dataclass
class Clock:
    """Seconds by the name of the lap."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


@dataclass(frozen=True)
class Result:
    """All that a training script knows at its end."""

    recipe: str
    script: Path
    arguments: argparse.Namespace
    dataset: Dataset
    model: Any
    history: Mapping[str, Sequence[float]]
    assessment: Assessment
    seconds: Mapping[str, float]


def start(root: Path, model: str) -> Path:
    """Make the folder root/model/TIME-ID; OSError where that cannot be."""
    folder = root / model / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    return folder


def write(folder: Path, result: Result) -> dict[str, Any]:
    """Fill the folder and give back what metrics.json says, except that it is not yet there: `complete` writes it."""
    dataset = result.dataset
    result.model.save(folder / "model.keras")
    # Evenly spaced over the validation part, and not its beginning: a file may be sorted by class.
    rows = np.linspace(0, len(dataset.validation) - 1, min(SAMPLES, len(dataset.validation))).astype(np.int64)
    _write_part(folder / "samples.npz", dataset.validation.take(rows))
    _write_part(folder / "test.npz", dataset.test)
    if result.assessment.detector is not None:
        result.assessment.detector.save(folder / "ood.npz")
    _write_history(folder / "history.csv", result.history)
    shutil.copyfile(result.script, folder / "recipe.py")
    environment = describe_environment(result)
    _write_json(folder / "environment.json", environment)
    return {
        "schema": SCHEMA,
        "model": result.arguments.name,
        "run": folder.name,
        "recipe": result.recipe,
        "arguments": flags.as_json(result.arguments),
        "labels": list(dataset.labels),
        "input": dataset.input,
        "data": {"name": dataset.name, "sha256": dataset.sha256, "sizes": dataset.sizes},
        "metrics": {"validation": result.assessment.validation, "test": result.assessment.test},
        "calibration": result.assessment.calibration,
        "out_of_distribution": result.assessment.strangeness,
        "seconds": dict(result.seconds),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": environment["git_commit"],
        "versions": environment["versions"],
    }


def complete(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json, atomically and last, after all else has reached the disk: now the run is complete."""
    for path in folder.iterdir():
        _sync(path)
    draft = folder / ".metrics.json"
    _write_json(draft, metrics)
    _sync(draft)
    draft.rename(folder / "metrics.json")
    _sync(folder)


def describe_environment(result: Result) -> dict[str, Any]:
    """Where and from what the run was made; `git_commit` is null outside a checkout, `git_dirty` tells of changes."""
    commit = _git(result.script.parent, "rev-parse", "HEAD")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": {"python": platform.python_version(), **versions()},
        "seed": result.arguments.seed,
        "command": flags.command(result.recipe, flags.as_json(result.arguments)),
        "executable": Path(sys.executable).name,
        "git_commit": commit or None,
        "git_dirty": bool(_git(result.script.parent, "status", "--porcelain")) if commit else None,
        "data": {"name": result.dataset.name, "sha256": result.dataset.sha256},
    }


def versions() -> dict[str, str]:
    """What is installed of that which decides how a network is trained."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _write_part(path: Path, part: Part) -> None:
    np.savez_compressed(path, inputs=part.inputs, labels=part.labels)


def _write_history(path: Path, history: Mapping[str, Sequence[float]]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["epoch", *history])
        rows.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True), start=1))


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
