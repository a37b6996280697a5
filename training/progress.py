"""A fit that an interruption cannot hurt: after every epoch all that it needs to go on is on the disk.

That is the weights, the optimizer's memory, the random state of dropout, the best weights so far and the curves. The
order of the rows needs no saving (training/feed.py). So on the CPU a fit that was killed and continued ends with the
same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from training import run
from training.command import say

UNFINISHED = ".unfinished"
"""The folder inside a run's folder that is there until the run is complete."""


class Claim:
    """A run's folder, and the lock by which this process alone goes on with it."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder, self._lock = folder, lock

    def release(self) -> None:
        """The run is complete: nothing is left to go on with."""
        shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
        self._lock.close()


def key(*parts: Any) -> str:
    """What must be the same for one fit to go on where another stopped: arguments, data, code, versions."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def claim(root: Path, model: str, wanted: str, fresh: bool) -> Claim:
    """The newest unfinished run of this model with this key that nobody works on, or else a new run's folder."""
    for place in [] if fresh else sorted((root / model).glob(f"*/{UNFINISHED}"), reverse=True):
        if _read_key(place) != wanted or (lock := _locked(place)) is None:
            continue
        if not (place.parent / "metrics.json").exists():  # asked under the lock: its owner may just have completed it
            return Claim(place.parent, lock)
        lock.close()
    folder = run.start(root, model)
    (folder / UNFINISHED).mkdir()
    lock = _locked(folder / UNFINISHED)
    assert lock is not None, "a folder that was made just now is nobody else's"
    (folder / UNFINISHED / "key").write_text(wanted)
    return Claim(folder, lock)


def _read_key(place: Path) -> str:
    try:
        return (place / "key").read_text()
    except OSError:
        return ""


def _locked(place: Path) -> IO[bytes] | None:
    try:
        lock = (place / "lock").open("wb")
    except OSError:  # another process has just completed that run
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


class Progress:
    """Follows one fit: its curves, its best weights by validation loss, when to stop, and the state on the disk."""

    def __init__(self, folder: Path, model: Any, patience: int) -> None:
        self.history: dict[str, list[float]] = {}
        self.seconds = 0.0
        self.epochs = 0
        self.over = False
        self._file = folder / UNFINISHED / "state.npz"
        self._model, self._patience = model, patience
        self._best = float("inf")
        self._best_epoch = 0
        self._best_weights: list[NDArray[Any]] = []
        self._begun = 0.0

    def begin(self) -> int:
        """Take up what is on the disk, if anything; the number of epochs that are done. The optimizer must be built."""
        if self._file.exists() and self._restore():
            say(f"going on in {self._file.parent.parent} after epoch {self.epochs}")
        self._begun = time.perf_counter() - self.seconds
        return self.epochs

    def epoch_ended(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Note what the epoch (counted from 0) gave, keep it if it is the best, and write all down."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            self._model.stop_training = self.over = True
            return
        self.epochs = epoch + 1
        if logs["val_loss"] < self._best:
            self._best, self._best_epoch = logs["val_loss"], self.epochs
            self._best_weights = self._model.get_weights()
        if self._patience and self.epochs - self._best_epoch >= self._patience:
            self._model.stop_training = self.over = True
        self.seconds = time.perf_counter() - self._begun
        self._save()

    def end(self) -> None:
        """Give the model its best weights."""
        if self._best_weights:
            self._model.set_weights(self._best_weights)

    def _variables(self) -> list[Any]:
        return [*self._model.variables, *self._model.optimizer.variables]

    def _save(self) -> None:
        arrays: dict[str, Any] = {f"now{i}": np.asarray(each) for i, each in enumerate(self._variables())}
        arrays |= {f"best{i}": each for i, each in enumerate(self._best_weights)}
        words = {
            "history": self.history,
            "seconds": self.seconds,
            "epochs": self.epochs,
            "over": self.over,
            "best": self._best,
            "best_epoch": self._best_epoch,
        }
        draft = self._file.with_name("state.part")
        with draft.open("wb") as file:
            np.savez(file, words=np.array(json.dumps(words)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)

    def _restore(self) -> bool:
        try:
            with np.load(self._file, allow_pickle=False) as stored:
                words = json.loads(str(stored["words"]))
                values = [stored[f"now{i}"] for i in range(len(self._variables()))]
                best = [stored[f"best{i}"] for i in range(len(self._model.weights))]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            say(f"note: {self._file} is damaged, so the fit begins anew")
            return False
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)
        self.history, self.seconds, self.epochs = words["history"], words["seconds"], words["epochs"]
        self.over, self._best, self._best_epoch = words["over"], words["best"], words["best_epoch"]
        self._best_weights = best
        return True
