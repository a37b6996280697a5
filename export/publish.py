"""Puts a finished file into the model repository, all at once or not at all.

A version is a folder that appears by rename; a server that looks at any moment sees it whole or not at all. It is
written first under a name that starts with a dot, which servers pass over, and is on the disk before it is renamed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from pathlib import Path

from .errors import PublishError

FILE = "model.onnx"
UNFINISHED = ".publishing-"
ABANDONED_SECONDS = 3600.0
"""An unfinished folder untouched for so long belongs to a publisher that was killed: writing takes seconds. A lock
would tell sooner, but not on every network file system; an hour of a few megabytes harms nobody."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[0-9]+")


def check_name(name: str) -> str:
    """Give the name back if a model may have it; PublishError otherwise."""
    if not _NAME.fullmatch(name):
        raise PublishError(
            f"model name {name!r}; expected 1 to 128 letters, digits, '.', '_' or '-', not starting with '.'"
        )
    return name


def publish(model_bytes: bytes, repository: Path, name: str) -> Path:
    """Make `<repository>/<name>/<next version>/model.onnx` and give its path.

    Two publishers at once get different versions. Raises PublishError for an unfit name, or with the system's own
    reason when the repository cannot be written; then nothing of this file is left in it.
    """
    check_name(name)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(repository)
        unfinished = repository / f"{UNFINISHED}{secrets.token_hex(8)}"
        try:
            _write_durably(unfinished, model_bytes)
            return _rename_to_next(unfinished, repository, name) / FILE
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise PublishError(f"cannot publish {name!r} to {repository}: {error.strerror or error}") from error


def write_file(model_bytes: bytes, path: Path) -> None:
    """Write the file whole or not at all, replacing what was there; PublishError with the system's reason."""
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        try:
            _write_file_durably(unfinished, model_bytes)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise PublishError(f"cannot write {path}: {error.strerror or error}") from error


def next_version(folder: Path) -> int:
    """Give 1 + the largest version there, counting folders without a model: a number is never used twice."""
    if not folder.is_dir():
        return 1
    return 1 + max((int(entry.name) for entry in folder.iterdir() if _VERSION.fullmatch(entry.name)), default=0)


def _rename_to_next(unfinished: Path, repository: Path, name: str) -> Path:
    parent = repository / name
    if not parent.is_dir():
        parent.mkdir(exist_ok=True)
        _sync_folder(repository)
    version = next_version(parent)
    while True:
        final = parent / str(version)
        try:
            unfinished.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            version += 1  # another publisher was faster
            continue
        _sync_folder(parent)
        return final


def _write_durably(folder: Path, data: bytes) -> None:
    folder.mkdir()
    _write_file_durably(folder / FILE, data)
    _sync_folder(folder)


def _write_file_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk: without it a crash may take the rename back."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(repository: Path) -> None:
    for folder in repository.glob(f"{UNFINISHED}*"):
        try:
            touched = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:  # its publisher has just finished
            continue
        if time.time() - touched > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
