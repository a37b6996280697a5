"""What a network of this package is: its flags and their defaults, what it takes, and how it is built and trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.augment import Augmentation
from training.command import Verdict
from training.data import Dataset
from training.knobs import Knob

Build = Callable[[Dataset, argparse.Namespace], Any]
"""Raw rows in (uint8 pictures, or table rows as they are), a value for each class out: a keras.Model, not compiled."""


def anything(_dataset: Dataset, _options: argparse.Namespace) -> None:
    """The check of a network that takes pictures and tables of any size."""


@dataclass(frozen=True)
class Recipe:
    """One network of the table in docs/training.md.

    `knobs` are the flags about the network that it has, by name; `without` names other flags, or groups of them, that
    mean nothing to it. `defaults` are its values of any flag, `measured` those for one dataset, among them `target`,
    the accuracy it is known to reach there. `check` raises DataError or UsageError for what it cannot learn from.
    `train` is its own story, where it has one; else training/story.py trains it.
    """

    name: str
    summary: str
    script: Path
    network: Build
    knobs: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[[Dataset, argparse.Namespace], None] = anything
    augmentation: Augmentation | None = None
    without: tuple[str, ...] = ()
    train: Callable[[Recipe, argparse.Namespace], Verdict] | None = None

    @property
    def id(self) -> str:
        """Its name in run folders and cards."""
        return f"training.{self.name}"

    def offers(self, knob: Knob) -> bool:
        """Whether it has that flag."""
        if knob.group == "network":
            return knob.name in self.knobs
        return knob.name not in self.without and knob.group not in self.without

    def settled(self, dataset: str) -> dict[str, Any]:
        """Its own defaults on the dataset of that name."""
        return {**self.defaults, **self.measured.get(dataset, {})}
