"""Loads, proves, warms and swaps model versions, so that memory follows what lies in the repository's folder."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import weakref
from pathlib import Path

from server import disk, memory, policy
from server.batching import Batcher
from server.config import Config
from server.control import Wishes
from server.device import Devices
from server.disk import FILE, FolderUnreadable, Look, ModelFolder, Signature
from server.errors import CannotLoad, DeviceUnavailable, InvalidInput, ModelRefused, Unavailable, UnknownModel
from server.lanes import Lane, Observe, each_of
from server.metrics import Metrics
from server.model import Model, load
from server.quality import Answers
from server.statistics import Statistics
from server.tracing import Tracing
from server.versions import Entry, Served, Shelf, State, changed, listed
from server.wire import ResponseWriter

__all__ = ["Entry", "Repository", "Served", "State"]

log = logging.getLogger(__name__)
# Of one worker's time: short enough that small requests never wait long, long enough that the hand-over does not count.
PIECE_SECONDS, SPLIT_SECONDS = 2e-3, 300e-6


class Repository:
    """The versions on disk and those in memory. Used on one event loop; files are read in threads. `find` on any."""

    def __init__(
        self,
        config: Config,
        devices: Devices,
        batcher: Batcher,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ):
        self._folder, self._config, self._devices, self._batcher = config.models, config, devices, batcher
        self._metrics, self._tracing = metrics, tracing
        self._policy = policy.parse(config.version_policy)
        self._wishes = Wishes()
        self._shelves: dict[str, Shelf] = {}
        self._identity: disk.Identity | None = None  # of the folder that the models came from
        self._problem = ""  # with the folder as a whole
        self._lock = asyncio.Lock()  # one look at a time

    def entries(self) -> list[Entry]:
        """Every version that the folder holds, ordered by name, then version."""
        return [entry for _, shelf in sorted(self._shelves.items()) for entry in shelf.sorted()]

    def ready(self) -> list[Served]:
        """The versions that answer, ordered by name, then version."""
        return [entry.served for entry in self.entries() if entry.served]

    def answering(self, name: str) -> Served | None:
        """The version of a model that answers when none is named."""
        return self._shelves[name].answering() if name in self._shelves else None

    def names(self, entry: Entry) -> list[str]:
        """The aliases of a version."""
        return self._shelves[entry.name].names(entry.version) if entry.name in self._shelves else []

    def problems(self) -> list[str]:
        """What is wrong with the repository beside its versions, in words: what cannot be read, where aliases lead."""
        inside = [problem for _, shelf in sorted(self._shelves.items()) for problem in shelf.problems()]
        return [self._problem, *inside] if self._problem else inside

    def find(self, name: str, version: int = 0, alias: str = "") -> Served:
        """The version that answers a request for `name` (empty: the only model) and a version or an alias, if given.

        UnknownModel, with what there is, also for a version that was refused; Unavailable while it is being loaded;
        InvalidInput where the request names too little or too much.
        """
        if version and alias:
            raise InvalidInput(f"the request names version {version} and alias {alias[:64]!r}; it may name one of them")
        name = name or self._only_name()
        shelf = self._shelves.get(name)
        if shelf is None:
            if not self._shelves:
                raise self._none_yet()
            raise UnknownModel(f"no model {name!r}; this server has {listed(sorted(self._shelves))}")
        return shelf.pick(version, alias)

    async def refresh(self) -> None:
        """Makes memory follow the disk: loads what is new, then lets go of what is gone or no longer wanted.

        A version that cannot be loaded keeps its reason until its files change; older versions stay in its place.
        A folder that cannot be read changes nothing: what is loaded goes on being served.
        """
        async with self._lock:
            look = await self._look()
            if look is None:
                return
            for name in look.models.keys() | self._shelves.keys():
                if name not in look.unreadable:
                    await self._follow(name, look.models.get(name, ModelFolder({}, {})))
                else:
                    self._trouble(self._shelves.setdefault(name, Shelf(name)), look.unreadable[name])
                if not self._shelves[name].entries:
                    del self._shelves[name]

    async def load(self, name: str, version: int = 0) -> list[Entry]:
        """Looks at one model now, and loads what the policy wants of it (0), or a version whatever the policy says.

        The model's versions, when that is done. UnknownModel where the folder does not hold it; CannotLoad, with the
        reason, where it was refused. A caller that leaves does not stop it.
        """
        return await asyncio.shield(asyncio.ensure_future(self._load_now(name, version)))

    async def unload(self, name: str, version: int = 0) -> list[Entry]:
        """Lets go of a model (0: all its versions, and those to come) until `load`; calls in progress finish."""
        async with self._lock:
            shelf = self._shelves.get(name)
            if shelf is None or (version and version not in shelf.entries):
                raise UnknownModel(f"no model {name!r}" + (f" version {version}" if version else ""))
            self._wishes.unload(name, version)
            for number in [version] if version else list(shelf.entries):
                self._exclude(shelf, number, self._wishes.unloaded(name, number))
            return shelf.sorted()

    # ---- looking ----

    async def _look(self) -> Look | None:
        """What is on disk; None, with the reason in the log and in `problems`, where that cannot be known."""
        before = self._identity if self._shelves else None
        try:
            look = await asyncio.to_thread(disk.look, self._folder, before)
        except FolderUnreadable as error:
            if str(error) != self._problem:
                log.error("%s; what is loaded goes on being served", error)
            self._problem = str(error)
            return None
        if self._problem:
            log.info("%s can be read again", self._folder)
        self._problem, self._identity = "", look.identity
        return look

    def _trouble(self, shelf: Shelf, problem: str) -> None:
        if problem and problem != shelf.problem:
            log.error("model %s: %s; what was known before stays", shelf.name, problem)
        shelf.problem = problem

    def _none_yet(self) -> Unavailable:
        return Unavailable(f"no model yet: {self._problem or f'{self._folder} holds no NAME/VERSION/{FILE}'}")

    def _only_name(self) -> str:
        names = sorted(self._shelves)
        if len(names) > 1:
            raise InvalidInput(f"the request names no model, and this server has several: {listed(names)}")
        if not names:
            raise self._none_yet()
        return names[0]

    # ---- loading and letting go ----

    async def _load_now(self, name: str, version: int) -> list[Entry]:
        async with self._lock:
            look = await self._look()
            if look is None or name in look.unreadable:
                raise Unavailable(self._problem if look is None else look.unreadable[name])
            folder = look.models.get(name)
            if folder is None or (version and version not in folder.versions):
                raise UnknownModel(
                    f"{self._folder} holds no model {name!r}" + (f" version {version}" if version else "")
                )
            self._wishes.load(name, version)
            await self._follow(name, folder, again={version} if version else set(folder.versions))
            shelf = self._shelves[name]
            entry = shelf.entries[version or max(shelf.entries)]
            if (version or not shelf.served()) and entry.reason:
                raise CannotLoad(f"model {name!r} version {entry.version} was refused: {entry.reason}")
            return shelf.sorted()

    async def _follow(self, name: str, folder: ModelFolder, again: set[int] | None = None) -> None:
        """Makes one model follow its folder. again: versions to try although their files were refused before."""
        shelf = self._shelves.setdefault(name, Shelf(name))
        self._trouble(shelf, folder.problem)
        aliases = shelf.aliases if folder.aliases is None else folder.aliases
        kept, before = 0, shelf.served()
        for version in sorted(folder.versions, reverse=True):
            unwanted = self._unwanted(name, version, kept, set(aliases.values()))
            if unwanted:
                self._exclude(shelf, version, unwanted, now=False)
                continue
            entry, signature = shelf.entries.get(version), folder.versions[version]
            retry = entry is not None and not entry.served and version in (again or ())
            if entry is None or entry.signature != signature or retry:
                await self._load(shelf, version, signature)
            kept += shelf.entries[version].served is not None
        if what := changed(shelf.aliases, aliases):
            log.info("model %s: %s", name, what)
        shelf.aliases = aliases  # now, when all that they name is there: a rollback is one swap
        self._let_go(shelf, folder)
        answering = shelf.answering()
        for served in shelf.served():
            if answering and served.version > answering.version and served not in before:
                log.warning(
                    "model %s version %d: ready, but version %d is named %s and goes on answering",
                    name, served.version, answering.version, " and ".join(shelf.names(answering.version)),
                )  # fmt: skip

    def _unwanted(self, name: str, version: int, newer: int, named: set[int]) -> str:
        """Why a version is not to be served; empty for one that is. What has a name is, whatever the policy."""
        if reason := self._wishes.unloaded(name, version):
            return reason
        rule = self._policy.of(name)
        if version in named or self._wishes.asked(name, version) or rule.wants(version, newer):
            return ""
        return f"the version policy is {rule.text}"

    def _exclude(self, shelf: Shelf, version: int, reason: str, now: bool = True) -> None:
        """Lists a version as not served. now=False: one that is served goes on until `_let_go`."""
        entry = shelf.entries.get(version)
        excluded = Entry(shelf.name, version, None, State.UNAVAILABLE, reason)
        if entry and entry.served and not now:
            shelf.set(version, dataclasses.replace(entry, reason=reason, signature=None))
            return
        shelf.set(version, excluded)
        if entry and entry.served:
            log.info("model %s version %d: unloaded (%s); its calls in progress finish", shelf.name, version, reason)

    def _let_go(self, shelf: Shelf, folder: ModelFolder) -> None:
        """Unloads what is gone from the folder, and what was kept only until the others were loaded."""
        for version, entry in list(shelf.entries.items()):
            if entry.served and entry.signature is None:
                self._exclude(shelf, version, entry.reason)
            if version not in folder.versions:
                shelf.remove(version)
                if entry.served:
                    log.info("model %s version %d: its folder is gone, unloaded", shelf.name, version)

    async def _load(self, shelf: Shelf, version: int, signature: Signature) -> None:
        """Loads beside what is there, and swaps only what proved itself."""
        name = shelf.name
        before = shelf.entries.get(version)
        entry = before if before and before.served else Entry(name, version, None, State.LOADING)
        shelf.set(version, entry)
        try:
            model = await asyncio.to_thread(load, self._file(name, version), self._devices)
        except (ModelRefused, DeviceUnavailable) as error:
            log.error("model %s version %d: refused, because %s", name, version, error)
            if self._metrics:
                self._metrics.loaded(name, ready=False)
            still = entry.served  # the same number in another file: who is served stays served
            state = State.READY if still else State.UNAVAILABLE
            shelf.set(version, Entry(name, version, signature, state, str(error), still))
            return
        weakref.finalize(model, memory.give_back).atexit = False
        writer = ResponseWriter(name, version, model.sha256, model.provider, model.labels, model.ood_threshold)
        observe = self._observe(name, version, model)
        statistics = Statistics()
        served = Served(name, version, model, self._lane(model, statistics, observe), writer, statistics)
        if self._metrics:
            self._metrics.loaded(name, ready=True)
        shelf.set(version, Entry(name, version, signature, State.READY, served=served))
        log.info(
            "model %s version %d: ready on %s, sha256 %s, %s → %d classes, %.0f µs + %.2f µs a row",
            name, version, model.provider, model.sha256[:12], model.input, model.classes,
            model.cost.call * 1e6, model.cost.row * 1e6,
        )  # fmt: skip

    def _observe(self, name: str, version: int, model: Model) -> Observe | None:
        """Who is told of a version's batches."""
        told = []
        if self._metrics:
            reference = model.card.reference if model.card else None
            told.append(self._metrics.lane(name, version, Answers(model.labels, reference, model.ood_threshold)))
        if self._tracing is not None:
            told.append(self._tracing.observe(name, version))
        return each_of(told)

    def _file(self, name: str, version: int) -> Path:
        return self._folder / name / str(version) / FILE

    def _lane(self, model: Model, statistics: Statistics, observe: Observe | None) -> Lane:
        cost, limit = model.cost, self._config.max_batch_rows
        per_row = cost.seconds(cost.chunk) / cost.chunk
        piece = max(cost.chunk, int(PIECE_SECONDS / per_row) // cost.chunk * cost.chunk)
        compute = statistics.counted(model.compute)
        split = max(1, int(SPLIT_SECONDS / per_row))
        return self._batcher.lane(compute, min(piece, limit), split, observe, cost.seconds)
