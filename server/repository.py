"""Finds, loads, warms and swaps model versions: NAME/VERSION/model.onnx under one folder."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from server.batching import Batcher, Lane
from server.config import Config
from server.errors import DeviceUnavailable, InvalidInput, ModelRefused, Unavailable, UnknownModel
from server.model import Model, load
from server.wire import ResponseWriter

log = logging.getLogger(__name__)
FILE = "model.onnx"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# Of one worker's time: short enough that small requests never wait long, long enough that the hand-over does not count.
PIECE_SECONDS, SPLIT_SECONDS = 2e-3, 300e-6


class State(Enum):
    """What a version is doing."""

    LOADING = "loading"
    READY = "ready"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Served:
    """A version that answers."""

    name: str
    version: int
    model: Model
    lane: Lane
    writer: ResponseWriter


Signature = tuple[int, int, int] | None  # what tells one file from another without reading it; None: no file


@dataclass(frozen=True)
class Entry:
    """One version as `ListModels` tells it. `served` is there while it is ready."""

    name: str
    version: int
    signature: Signature
    state: State
    reason: str = ""
    served: Served | None = None


class Repository:
    """The versions on disk and those in memory. Used on one event loop; files are read in threads."""

    def __init__(self, config: Config, device: str, batcher: Batcher):
        self._folder, self._config, self._device, self._batcher = config.models, config, device, batcher
        self._entries: dict[str, dict[int, Entry]] = {}
        self._wanted = _policy(config.version_policy)

    def entries(self) -> list[Entry]:
        """Every version that the folder holds, ordered by name, then version."""
        return [entry for name in sorted(self._entries) for _, entry in sorted(self._entries[name].items())]

    def ready(self) -> list[Served]:
        """The versions that answer, ordered by name, then version."""
        return [entry.served for entry in self.entries() if entry.served]

    def newest(self, name: str) -> Served | None:
        """The newest version of a model that answers."""
        return max(
            (entry.served for entry in self._entries.get(name, {}).values() if entry.served),
            key=lambda served: served.version,
            default=None,
        )

    def find(self, name: str, version: int = 0) -> Served:
        """The version that answers a request for `name` (empty: the only model) and `version` (0: the newest).

        UnknownModel, with what there is, also for a version that was refused; Unavailable while it is being loaded.
        """
        name = name or self._only_name()
        versions = self._entries.get(name)
        if versions is None:
            if not self._entries:
                raise self._none_yet()
            raise UnknownModel(f"no model {name!r}; this server has {_list(sorted(self._entries))}")
        entry = versions.get(version)
        served = entry.served if entry else self.newest(name) if version == 0 else None
        if served:
            return served
        if version and not entry:
            ready = [str(v) for v, other in sorted(versions.items()) if other.served]
            raise UnknownModel(f"model {name!r} has no version {version}; it has {_list(ready) or 'none'}")
        entry = entry or versions[max(versions)]
        if entry.state is State.LOADING:
            raise Unavailable(f"model {name!r} version {entry.version} is being loaded")
        raise UnknownModel(f"model {name!r} version {entry.version} is not served: {entry.reason}")

    def _none_yet(self) -> Unavailable:
        return Unavailable(f"no model yet: {self._folder} holds no NAME/VERSION/{FILE}")

    def _only_name(self) -> str:
        names = sorted(self._entries)
        if len(names) > 1:
            raise InvalidInput(f"the request names no model, and this server has several: {_list(names)}")
        if not names:
            raise self._none_yet()
        return names[0]

    async def refresh(self) -> None:
        """Makes memory follow the disk: loads what is new, then lets go of what is gone or no longer wanted.

        A version that cannot be loaded keeps its reason until its file changes; older versions stay in its place.
        """
        found = await asyncio.to_thread(scan, self._folder)
        for name in found.keys() | self._entries.keys():
            await self._refresh_model(name, found.get(name, {}))
            if not self._entries[name]:
                del self._entries[name]

    async def _refresh_model(self, name: str, found: dict[int, Signature]) -> None:
        entries = self._entries.setdefault(name, {})
        keep: set[int] = set()
        for version in sorted(found, reverse=True):
            if not self._wanted(version, len(keep)):
                if version not in entries or not entries[version].served:
                    entries[version] = self._excluded(name, version)
                continue
            if version not in entries or entries[version].signature != found[version]:
                await self._load(entries, name, version, found[version])
            if entries[version].served:
                keep.add(version)
        for version, entry in list(entries.items()):
            if version not in found:
                del entries[version]
            elif entry.served and version not in keep:
                entries[version] = self._excluded(name, version)
            if entries.get(version) is not entry and entry.served:
                log.info("model %s version %d: unloaded; its calls in progress finish", name, version)

    def _excluded(self, name: str, version: int) -> Entry:
        reason = f"the version policy is {self._config.version_policy}"
        return Entry(name, version, None, State.UNAVAILABLE, reason)

    async def _load(self, entries: dict[int, Entry], name: str, version: int, signature: Signature) -> None:
        """Loads beside what is there, and swaps only what proved itself."""
        before = entries.get(version)
        entry = before or Entry(name, version, None, State.LOADING)
        entries[version] = entry
        try:
            model = await asyncio.to_thread(load, self._folder / name / str(version) / FILE, self._device)
        except (ModelRefused, DeviceUnavailable) as error:
            log.error("model %s version %d: refused, because %s", name, version, error)
            still = entry.served  # the same number in another file: who is served stays served
            state = State.READY if still else State.UNAVAILABLE
            entries[version] = Entry(name, version, signature, state, str(error), still)
            return
        writer = ResponseWriter(name, version, model.sha256, model.provider, model.labels)
        served = Served(name, version, model, self._lane(model), writer)
        entries[version] = dataclasses.replace(entry, signature=signature, state=State.READY, reason="", served=served)
        log.info(
            "model %s version %d: ready on %s, sha256 %s, %s → %d classes, %.0f µs + %.2f µs a row",
            name, version, model.provider, model.sha256[:12], model.input, model.classes,
            model.cost.call * 1e6, model.cost.row * 1e6,
        )  # fmt: skip

    def _lane(self, model: Model) -> Lane:
        cost, limit = model.cost, self._config.max_batch_rows
        per_row = cost.seconds(cost.chunk) / cost.chunk
        piece = max(cost.chunk, int(PIECE_SECONDS / per_row) // cost.chunk * cost.chunk)
        return self._batcher.lane(model.compute, min(piece, limit), max(1, int(SPLIT_SECONDS / per_row)))


def scan(folder: Path) -> dict[str, dict[int, Signature]]:
    """The versions on disk and the signature of each one's file. Names that start with a dot are not looked at."""
    found: dict[str, dict[int, Signature]] = {}
    for model in _folders(folder):
        if not NAME.fullmatch(model.name):
            continue
        versions = {
            int(v.name): _signature(v / FILE) for v in _folders(model) if re.fullmatch(r"[1-9]\d{0,17}", v.name)
        }
        if versions:
            found[model.name] = versions
    return found


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:  # gone between two looks
        return []


def _signature(file: Path) -> Signature:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _policy(text: str) -> Callable[[int, int], bool]:
    """Whether to serve a version, given how many newer ones are served."""
    kind, _, value = text.partition(":")
    if kind == "latest":
        return lambda _, newer: newer < int(value)
    if kind == "specific":
        chosen = {int(version) for version in value.split(",")}
        return lambda version, _: version in chosen
    return lambda _version, _newer: True


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
