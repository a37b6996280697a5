"""Where an unfinished table is kept, so that it can be stopped at any moment and goes on as if it had not been.

Beside OUTPUT lies the folder .OUTPUT.topclass with the rows so far, and `state`, which says how many of their bytes
count. `state` is replaced as a whole, after these bytes have reached the disk; what lies behind them is cut off and
made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from topclass.batch import manifest
from topclass.batch.failures import Failed

_COST = 50  # at most a fiftieth of the time goes into making sure
_SOONEST = 0.1  # seconds


@dataclass
class State:
    """What is certain: rows, their bytes, those of the errors file, and what was counted on the way."""

    rows: int = 0
    size: int = 0
    errors_size: int = 0
    failed: int = 0
    inverted: int = 0
    checksum: int = 0
    seconds: float = 0.0
    done: bool = False
    tally: dict[str, Any] = field(default_factory=dict)


def replace_file(path: Path, text: str) -> None:
    """Write a file that is there as a whole or as it was before, whatever happens."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make sure that names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """One unfinished table, held by one process."""

    def __init__(self, output: Path, folder: Path):
        self.output, self.folder = output, folder
        self.state = State()
        self.settings: dict[str, Any] = {}
        self._rows: IO[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self.certain = 0  # rows that no kill can take away
        self._last, self._cost = time.monotonic(), 0.0

    @property
    def errors_file(self) -> Path:
        """Where bad rows are listed."""
        return self.output.with_name(self.output.name + ".errors.csv")

    def recover(self) -> bool:
        """Read what an earlier run left; False if that is nothing."""
        try:
            self.settings = json.loads((self.folder / "job").read_text())
            self.state = State(**json.loads((self.folder / "state").read_text()))
            self.certain = self.state.rows
        except FileNotFoundError:
            return False
        except (ValueError, TypeError):
            raise Failed(f"{self.folder} was not written by this version of topclass; --restart begins anew") from None
        return True

    def begin(self, settings: dict[str, Any], files: IO[str]) -> None:
        """Note what the job is, before its first row."""
        with (self.folder / "files").open("w", encoding="utf-8") as stream:
            files.seek(0)
            shutil.copyfileobj(files, stream)
            stream.flush()
            os.fsync(stream.fileno())
        self.settings = settings
        replace_file(self.folder / "job", json.dumps(settings))
        replace_file(self.folder / "state", json.dumps(asdict(self.state)))

    def check(self, settings: Mapping[str, Any], files: IO[str]) -> None:
        """Failed unless this is the same job on the same files."""
        for name, value in settings.items():
            if name != "model" and self.settings.get(name) != value:
                was = json.dumps(self.settings.get(name))
                raise Failed(
                    f"the unfinished {self.output.name} was begun with another {name} ({was}, now "
                    f"{json.dumps(value)}); give the same again, or --restart to begin anew"
                )
        files.seek(0)
        with (self.folder / "files").open(encoding="utf-8") as before:
            changed = manifest.differences(before, files)
        if changed:
            raise Failed(
                f"the inputs are not what they were when {self.output.name} was begun: {changed}. --restart begins anew"
            )

    def adopt(self, settings: dict[str, Any]) -> None:
        """Go on with other settings: another model file, because that was allowed."""
        self.settings = settings
        replace_file(self.folder / "job", json.dumps(settings))

    def open(self) -> None:
        """Open both files for writing, without what is not certain."""
        self._rows = _cut(self.folder / "rows", self.state.size)
        self._errors = _cut(self.folder / "errors", self.state.errors_size)

    def write(self, rows: bytes, errors: bytes = b"") -> None:
        """Append; the caller changes `state`, whose sizes are kept here."""
        assert self._rows is not None
        assert self._errors is not None
        self._rows.write(rows)
        self.state.size += len(rows)
        if errors:
            self._errors.write(errors)
            self.state.errors_size += len(errors)

    def maybe_commit(self, finished: Callable[[], None]) -> None:
        """Commit if enough time went by since the last; `finished` brings `state` up to date before."""
        if time.monotonic() - self._last > max(_SOONEST, _COST * self._cost):
            finished()
            self.commit()

    def commit(self) -> None:
        """Make sure of all that is written."""
        start = time.monotonic()
        for stream in (self._rows, self._errors):
            if stream is not None:
                stream.flush()
                os.fsync(stream.fileno())
        replace_file(self.folder / "state", json.dumps(asdict(self.state)))
        self.certain = self.state.rows
        self._last = time.monotonic()
        self._cost = self._last - start

    def close(self) -> None:
        """Close both files; what cannot be written any more was not certain."""
        for stream in (self._rows, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def publish(self, finish: Callable[[Path, Path], bool], heading: bytes) -> None:
        """Put the table, and the list of bad rows, under their names. May be done again after a kill."""
        self.close()
        rows, errors, made = self.folder / "rows", self.folder / "errors", self.folder / "made"
        if errors.exists():
            if self.state.failed:
                with errors.open("rb") as listed, made.open("wb") as stream:
                    stream.write(heading)
                    shutil.copyfileobj(listed, stream)
                _place(made, self.errors_file)
            else:
                self.errors_file.unlink(missing_ok=True)
            errors.unlink()
        if rows.exists():
            _place(made if finish(rows, made) else rows, self.output)
            rows.unlink(missing_ok=True)
        sync_folder(self.output.parent)

    def forget(self) -> None:
        """Remove all that is kept."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _place(made: Path, under: Path) -> None:
    with made.open("rb") as stream:
        os.fsync(stream.fileno())
    made.replace(under)


def _cut(path: Path, size: int) -> IO[bytes]:
    path.touch()
    if path.stat().st_size < size:
        raise Failed(f"{path} is shorter than it was; --restart begins anew")
    os.truncate(path, size)
    return path.open("ab", buffering=1 << 20)


@contextlib.contextmanager
def journal(output: Path) -> Iterator[Journal]:
    """The journal of a table, locked; Failed while another process has it. The lock ends with the process."""
    folder = output.with_name(f".{output.name}.topclass")
    lock = _locked(folder, output)
    found = Journal(output, folder)
    try:
        yield found
    finally:
        found.close()
        os.close(lock)


def _locked(folder: Path, output: Path) -> int:
    while True:
        folder.mkdir(exist_ok=True)
        path = folder / "lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # whoever was before removed the folder just now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode(errors="replace").strip()
            os.close(lock)
            raise Failed(f"{output} is being written by another topclass (process {owner or 'unknown'})") from None
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(lock).st_ino:
                os.truncate(lock, 0)
                os.write(lock, str(os.getpid()).encode())
                return lock
        os.close(lock)  # it was removed between the two
