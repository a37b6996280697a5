"""One model's versions and aliases in memory, and which of them answers a request. Loads nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from server.aliases import CHAMPION, PREVIOUS, Aliases
from server.disk import Signature
from server.errors import Unavailable, UnknownModel
from server.lanes import Answer, Lane
from server.model import Model
from server.statistics import Statistics
from server.tracing import Trace
from server.wire import ResponseWriter


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
    statistics: Statistics

    async def submit(self, rows: np.ndarray, deadline: float, priority: int, trace: Trace | None = None) -> Answer:
        """Lane.submit, counted and traced."""
        if trace is not None:
            trace.submitted()
        started = time.perf_counter()
        try:
            answer = await self.lane.submit(rows, deadline, priority, trace)
        except Exception:
            self.statistics.failed(time.perf_counter() - started)
            raise
        self.statistics.answered(answer, time.perf_counter() - started)
        if trace is not None:
            trace.answered(answer)
        return answer


@dataclass(frozen=True)
class Entry:
    """One version as `ListModels` tells it. `served` is there while it is ready.

    signature: of the files that were loaded or refused; None where none were tried.
    """

    name: str
    version: int
    signature: Signature | None
    state: State
    reason: str = ""
    served: Served | None = None


class Shelf:
    """The versions of one model, and their names."""

    def __init__(self, name: str):
        self.name = name
        self.entries: Mapping[int, Entry] = {}  # replaced, never changed: other threads look
        self.aliases: Aliases = {}
        self.problem = ""  # with the folder or its aliases

    def set(self, version: int, entry: Entry) -> None:
        """What a version is from now on."""
        self.entries = {**self.entries, version: entry}

    def remove(self, version: int) -> None:
        """Forgets a version."""
        self.entries = {number: entry for number, entry in self.entries.items() if number != version}

    def sorted(self) -> list[Entry]:
        """Every version, ordered by number."""
        return [entry for _, entry in sorted(self.entries.items())]

    def served(self) -> list[Served]:
        """The versions that answer, ordered by number."""
        return [entry.served for entry in self.sorted() if entry.served]

    def names(self, version: int) -> list[str]:
        """The aliases of a version."""
        return sorted(alias for alias, named in self.aliases.items() if named == version)

    def answering(self) -> Served | None:
        """The version that answers when none is named: the newest; where there is a champion, that, or previous."""
        for alias in (CHAMPION, PREVIOUS) if CHAMPION in self.aliases else ():
            entry = self.entries.get(self.aliases.get(alias, 0))
            if entry and entry.served:
                return entry.served
        return max((e.served for e in self.entries.values() if e.served), key=lambda s: s.version, default=None)

    def pick(self, version: int, alias: str) -> Served:
        """The version of that number or alias, or the one that answers when neither is given (0, "").

        UnknownModel, with what there is, also for a version that was refused; Unavailable while it is being loaded.
        """
        if alias:
            version = self._named(alias)
        entries = self.entries
        entry = entries.get(version)
        served = entry.served if entry else self.answering() if version == 0 else None
        if served:
            return served
        if version and not entry:
            ready = [str(served.version) for served in self.served()]
            called = f" ({alias})" if alias else ""
            raise UnknownModel(
                f"model {self.name!r} has no version {version}{called}; it has {listed(ready) or 'none'}"
            )
        if not entries:
            raise UnknownModel(f"no model {self.name!r}: it is being removed")
        entry = entry or entries[max(entries)]
        if entry.state is State.LOADING:
            raise Unavailable(f"model {self.name!r} version {entry.version} is being loaded")
        raise UnknownModel(f"model {self.name!r} version {entry.version} is not served: {entry.reason}")

    def problems(self) -> list[str]:
        """What is wrong beside the versions themselves, in words."""
        found = [self.problem] if self.problem else []
        for alias, version in sorted(self.aliases.items()):
            entry = self.entries.get(version)
            if not (entry and entry.served):
                answering = self.answering()
                instead = f"version {answering.version} answers" if answering else "none answers"
                why = "not in the repository" if entry is None else "not served"
                found.append(f"{alias} is version {version}, which is {why}; without a version, {instead}")
        return [f"model {self.name!r}: {problem}" for problem in found]

    def _named(self, alias: str) -> int:
        if alias not in self.aliases:
            raise UnknownModel(
                f"model {self.name!r} has no alias {alias[:64]!r}; it has {listed(sorted(self.aliases)) or 'none'}"
            )
        return self.aliases[alias]


def listed(names: list[str]) -> str:
    """Names for a message, the first ten of them."""
    shown = ", ".join(names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def changed(before: Aliases, after: Mapping[str, int]) -> str:
    """What became of the aliases, for the log: "champion is version 3 (before: 2)"."""
    words = []
    for alias in sorted(before.keys() | after.keys()):
        old, new = before.get(alias), after.get(alias)
        if old != new:
            words.append(f"{alias} is {f'version {new}' if new else 'removed'} (before: {old or 'none'})")
    return ", ".join(words)
