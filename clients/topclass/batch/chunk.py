"""What flows from the sources: rows for one request, each with its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

# A request stays well under the 128 MiB that a server takes by default, and a window of them fits into memory.
MOST_BYTES = 8 << 20

Inputs: TypeAlias = NDArray[Any] | list[bytes]
"""An array of rows, or the bytes of picture files."""


@dataclass(frozen=True)
class Numbered(Sequence[str]):
    """Names of the rows of one array, made only when asked for: `file.npy[17]`."""

    path: str
    first: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(self.length))]
        return f"{self.path}[{self.first + range(self.length)[row]}]"


@dataclass(frozen=True)
class Chunk:
    """Rows that belong together: all their names; the inputs of the good ones, in order; why the others are bad.

    `expected` are the labels that the source knows, one for each row; None where it knows none.
    """

    names: Sequence[str]
    inputs: Inputs
    errors: dict[int, str] = field(default_factory=dict)
    expected: list[str] | None = None

    @property
    def good(self) -> list[int]:
        """The rows that `inputs` has."""
        return [row for row in range(len(self.names)) if row not in self.errors]
