"""What lies in the repository's folder: NAME/VERSION/model.onnx and what belongs to it. Looks, and loads nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server import aliases
from server.aliases import AliasError, Aliases

FILE = "model.onnx"
SIDE_FILES = ("labels.txt", "model.toml")  # what may describe a model.onnx that has no card
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[1-9]\d{0,17}")

Identity = tuple[int, int]  # device and inode
Stamp = tuple[int, int, int] | None  # inode, bytes and time of a file; None: no file
Signature = tuple[Stamp, ...]  # what tells a version from another without reading it: model.onnx, then SIDE_FILES


class FolderUnreadable(Exception):
    """The repository's folder could not be looked at, or it is not the folder that it was; the words say why."""


@dataclass(frozen=True)
class ModelFolder:
    """One model's folder."""

    versions: Mapping[int, Signature]
    aliases: Aliases | None  # None: they could not be read, because of `problem`
    problem: str = ""


@dataclass(frozen=True)
class Look:
    """What one look found. Models in `unreadable` may be there or not: their folders gave an error, not an answer."""

    identity: Identity
    models: Mapping[str, ModelFolder]
    unreadable: Mapping[str, str] = field(default_factory=dict)


def look(folder: Path, before: Identity | None = None) -> Look:
    """The models on disk. Names that start with a dot, and what is no version, are not looked at.

    before: the folder's identity when models were loaded from it. FolderUnreadable where the folder is missing or
    cannot be listed, and where another, empty folder is in its place: so a volume looks that is not mounted.
    """
    models, unreadable = dict[str, ModelFolder](), dict[str, str]()
    try:
        status = folder.stat()
        identity = status.st_dev, status.st_ino
        inside = _folders(folder)
        empty = not inside and not any(folder.iterdir())
    except OSError as error:
        raise FolderUnreadable(f"{folder} cannot be read: {error.strerror}") from error
    if before is not None and identity != before and empty:
        raise FolderUnreadable(f"{folder} is another folder than before, and empty: is its volume mounted?")
    for path in inside:
        if NAME.fullmatch(path.name):
            try:
                models[path.name] = _model(path)
            except FileNotFoundError:  # gone between two looks
                continue
            except OSError as error:
                unreadable[path.name] = f"{path} cannot be read: {error.strerror}"
    return Look(identity, {name: model for name, model in models.items() if model.versions}, unreadable)


def _model(folder: Path) -> ModelFolder:
    versions = {int(v.name): _signature(v) for v in _folders(folder) if VERSION.fullmatch(v.name)}
    try:
        return ModelFolder(versions, aliases.read(folder))
    except AliasError as error:
        return ModelFolder(versions, None, str(error))


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]


def _signature(version: Path) -> Signature:
    return tuple(_stamp(version / name) for name in (FILE, *SIDE_FILES))


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
