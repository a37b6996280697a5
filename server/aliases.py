"""Names for versions, `champion` and `previous` first of all: one small file beside the versions, written atomically.

    models/digits/aliases.json      {"champion": 3, "previous": 2}

The server only reads it; `python -m server alias` and `rollback` write it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

FILE = "aliases.json"
CHAMPION, PREVIOUS = "champion", "previous"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9]\d{0,17}")
_LIMIT = 64 << 10  # bytes; more is no list of a few names
Aliases = Mapping[str, int]


class AliasError(Exception):
    """The aliases cannot be read, or cannot be what they are asked to be; the words say why."""


def read(folder: Path) -> Aliases:
    """The aliases in a model's folder, none where it has no such file; AliasError where the file is wrong."""
    try:
        with (folder / FILE).open("rb") as file:
            data = file.read(_LIMIT + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise AliasError(f"{FILE} cannot be read: {error.strerror}") from error
    try:
        document = json.loads(data) if len(data) <= _LIMIT else None
    except (ValueError, RecursionError) as error:
        raise AliasError(f"{FILE} is not JSON: {error}") from error
    if not isinstance(document, dict) or not all(_is_alias(name, version) for name, version in document.items()):
        raise AliasError(f'{FILE} must be like {{"champion": 3, "previous": 2}}: names in small letters, and versions')
    return document


def write(folder: Path, aliases: Aliases) -> None:
    """Replaces a model's aliases at once: a reader sees those before or these, and so does one after a crash."""
    text = json.dumps(dict(sorted(aliases.items()))) + "\n"
    temporary = folder / f".{FILE}.{os.getpid()}"
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def assign(folder: Path, name: str, version: int) -> Aliases:
    """Gives a version a name and returns the new aliases; AliasError where there is no such version.

    A new champion makes the one before it `previous`, so that `rollback` leads back. The first champion takes over
    from the newest version, which answered until then.
    """
    present = versions(folder)
    if not NAME.fullmatch(name):
        raise AliasError(f"{name!r} is no alias: small letters, digits, '_' and '-', a letter first")
    if version not in present:
        raise AliasError(f"{folder} has no version {version}; it has {', '.join(map(str, present)) or 'none'}")
    aliases = dict(read(folder))
    if name == CHAMPION:
        before = aliases.get(CHAMPION, present[-1])
        if before != version:
            aliases[PREVIOUS] = before
    aliases[name] = version
    write(folder, aliases)
    return aliases


def remove(folder: Path, name: str) -> Aliases:
    """Takes a name away and returns the aliases that are left; AliasError where there is no such name."""
    aliases = dict(read(folder))
    if aliases.pop(name, None) is None:
        raise AliasError(f"{folder} has no alias {name!r}; it has {', '.join(sorted(aliases)) or 'none'}")
    write(folder, aliases)
    return aliases


def rollback(folder: Path) -> Aliases:
    """Makes the version before the champion the champion, and returns the new aliases.

    That is `previous`, else the next older version on disk; without a champion, the one before the newest. AliasError
    where there is none. Done twice, it leads back to where it began.
    """
    present, aliases = versions(folder), read(folder)
    now = aliases.get(CHAMPION, present[-1] if present else 0)
    older = [version for version in present if version < now]
    target = aliases.get(PREVIOUS) or (older[-1] if older else 0)
    if not target or target == now:
        raise AliasError(f"{folder} has no version before {now} to go back to" if now else f"{folder} has no version")
    return assign(folder, CHAMPION, target)


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder that have a file, the oldest first."""
    try:
        return sorted(
            int(v.name) for v in folder.iterdir() if _VERSION.fullmatch(v.name) and (v / "model.onnx").exists()
        )
    except OSError as error:
        raise AliasError(f"{folder} cannot be read: {error.strerror}") from error


def _is_alias(name: str, version: object) -> bool:
    return bool(NAME.fullmatch(name)) and type(version) is int and 0 < version < 10**18
