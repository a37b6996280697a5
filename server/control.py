"""What LoadModel and UnloadModel asked for, as long as the process lives."""

from __future__ import annotations

ALL = 0  # of a model's versions


class Wishes:
    """Which versions someone asked to load or unload, over what the version policy says."""

    def __init__(self) -> None:
        self._load, self._unload = set[tuple[str, int]](), set[tuple[str, int]]()

    def load(self, name: str, version: int) -> None:
        """A version is wanted whatever the policy says; ALL: nothing of the model is unloaded any more."""
        if version == ALL:
            self._unload = {wish for wish in self._unload if wish[0] != name}
        else:
            self._unload.discard((name, version))
            self._load.add((name, version))

    def unload(self, name: str, version: int) -> None:
        """A version is not wanted; ALL: no version of the model, those that appear later neither."""
        self._unload.add((name, version))
        self._load = {wish for wish in self._load if wish[0] != name or version not in (ALL, wish[1])}

    def asked(self, name: str, version: int) -> bool:
        """Whether LoadModel named this version last."""
        return (name, version) in self._load

    def unloaded(self, name: str, version: int) -> str:
        """Why a version is not to be loaded; empty where nobody asked for that."""
        if self.asked(name, version) or not {(name, version), (name, ALL)} & self._unload:
            return ""
        return "it was unloaded on request, until LoadModel or a restart"
