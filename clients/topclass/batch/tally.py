"""What a whole job is counted by: classes, confidence, strange rows; and where labels are known, right and wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from topclass.batch.answers import Answered

BINS = 20


@dataclass
class Tally:
    """Counts over all rows that have an answer. `confusion` [true class, answer]: rows, where the label is known."""

    labels: tuple[str, ...]
    predicted: list[int] = field(default_factory=list)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    strange: int = 0
    confusion: dict[tuple[int, int], int] = field(default_factory=dict)
    unlabelled: int = 0

    def __post_init__(self) -> None:
        self.predicted = self.predicted or [0] * len(self.labels)
        self._index = {label: index for index, label in enumerate(self.labels)}

    def add(self, answered: Answered) -> None:
        """Count one chunk."""
        values = answered.values
        if not len(values):
            return
        for index, count in enumerate(np.bincount(values.top_class).tolist()):
            self.predicted[index] += count
        bins = np.minimum((values.probability * BINS).astype(np.int64), BINS - 1)
        for index, count in enumerate(np.bincount(bins).tolist()):
            self.confidence[index] += count
        self.strange += int(values.out_of_distribution.sum())
        if answered.chunk.expected is not None:
            for row, answer in zip(answered.good, values.top_class.tolist(), strict=True):
                true = self.class_of(answered.chunk.expected[row])
                if true is None:
                    self.unlabelled += 1
                else:
                    self.confusion[true, answer] = self.confusion.get((true, answer), 0) + 1

    def class_of(self, label: str) -> int | None:
        """The class that a label stands for: its text, else its index; None for what the model does not know."""
        if label in self._index:
            return self._index[label]
        return int(label) if label.isdecimal() and len(label) < 10 and int(label) < len(self.labels) else None

    @property
    def labelled(self) -> int:
        """Rows whose label the model knows."""
        return sum(self.confusion.values())

    @property
    def correct(self) -> int:
        """Those of them that it got right."""
        return sum(count for (true, answer), count in self.confusion.items() if true == answer)

    @property
    def accuracy(self) -> float:
        """Their share, 0 to 1; NaN without any."""
        return self.correct / self.labelled if self.labelled else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        n, z = self.labelled, 1.959964
        if not n:
            return (math.nan, math.nan)
        share = self.correct / n
        middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return ((middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n))

    def classes(self) -> list[tuple[str, int, int, float, float]]:
        """For each class: its label, rows that are it, rows that were taken for it, recall, precision (NaN of none)."""
        true, taken, right = [[0] * len(self.labels) for _ in range(3)]
        for (expected, answer), count in self.confusion.items():
            true[expected] += count
            taken[answer] += count
            right[expected] += count if expected == answer else 0
        return [
            (label, true[i], taken[i], _share(right[i], true[i]), _share(right[i], taken[i]))
            for i, label in enumerate(self.labels)
        ]

    def mistakes(self, most: int) -> list[tuple[str, str, int]]:
        """The commonest: true label, answer, rows."""
        wrong = [(count, pair) for pair, count in self.confusion.items() if pair[0] != pair[1]]
        wrong.sort(key=lambda each: (-each[0], each[1]))
        return [(self.labels[true], self.labels[answer], count) for count, (true, answer) in wrong[:most]]

    def kept(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {
            "predicted": self.predicted,
            "confidence": self.confidence,
            "strange": self.strange,
            "confusion": [[*pair, count] for pair, count in self.confusion.items()],
            "unlabelled": self.unlabelled,
        }

    @classmethod
    def of(cls, labels: tuple[str, ...], kept: dict[str, Any]) -> Tally:
        """What `kept` gave; an empty one gives an empty tally."""
        if not kept:
            return cls(labels)
        confusion = {(true, answer): count for true, answer, count in kept["confusion"]}
        return cls(labels, kept["predicted"], kept["confidence"], kept["strange"], confusion, kept["unlabelled"])


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
