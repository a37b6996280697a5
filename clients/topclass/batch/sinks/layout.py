"""Which columns a table has."""

from __future__ import annotations

from dataclasses import dataclass

LEADING = ("input", "top_class", "label", "probability")
TRAILING = ("ood_score", "out_of_distribution", "version", "sha256", "error")


@dataclass(frozen=True)
class Layout:
    """`labels` are the model's; `ranks` how many classes are ranked; `expected`: there is a column of true labels."""

    labels: tuple[str, ...]
    version: int
    sha256: str
    probabilities: bool = True
    ranks: int = 0
    expected: bool = False

    @property
    def ranked(self) -> list[str]:
        """The columns behind the first class."""
        return [f"{what}_{rank}" for rank in range(2, self.ranks + 1) for what in ("label", "probability")]

    @property
    def header(self) -> list[str]:
        """The columns of a CSV file."""
        each = [f"p_{label}" for label in self.labels] if self.probabilities else []
        middle = ["expected"] if self.expected else []
        return [*LEADING, *self.ranked, *each, *middle, *TRAILING]
