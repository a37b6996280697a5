"""What a call gives back: small frozen values, arrays where there is one entry for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Ranked:
    """One class of a ranking: its index, its label, its probability (0 to 1)."""

    class_index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the model says of one row; see Result for the fields."""

    top_class: int
    label: str
    probability: float
    probabilities: NDArray[np.float32]
    top_k: tuple[Ranked, ...]
    ood_score: float | None
    out_of_distribution: bool

    def __repr__(self) -> str:
        strange = ", unlike the training data" if self.out_of_distribution else ""
        return f"<Prediction {self.label!r} {_percent(self.probability)}{strange}>"


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went: microseconds waited and computed, and the most rows that were computed together."""

    queue_us: int
    compute_us: int
    batch_rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer to one batch of N rows; `result[i]` and iteration give one Prediction for each row, in order."""

    labels: tuple[str, ...]
    """The labels of all C classes, in the order of the columns of `probabilities`."""
    top_class: NDArray[np.int64]
    """[N]: the index of the most probable class."""
    top_label: tuple[str, ...]
    """[N]: its label."""
    probability: NDArray[np.float32]
    """[N]: its probability, 0 to 1."""
    probabilities: NDArray[np.float32]
    """[N, C]: the probability of every class; [N, 0] where they were not asked for."""
    top_k: tuple[tuple[Ranked, ...], ...]
    """[N]: the most probable classes of each row, the most probable first; empty where none were asked for."""
    ood_score: NDArray[np.float32] | None
    """[N]: how unlike the training data each row is; None from models that do not measure it."""
    out_of_distribution: NDArray[np.bool_]
    """[N]: True where that is over the model's threshold."""
    model: str
    """The model that answered."""
    version: int
    """Its version."""
    sha256: str
    """The sha256 of its file, 64 hex digits."""
    provider: str
    """What computed it, as ONNX Runtime calls it: CPUExecutionProvider, CUDAExecutionProvider."""
    timing: Timing
    """Where the time went, on the server."""

    def __len__(self) -> int:
        return len(self.top_class)

    def __getitem__(self, row: int) -> Prediction:
        row = range(len(self))[row]
        return Prediction(
            top_class=int(self.top_class[row]),
            label=self.top_label[row],
            probability=float(self.probability[row]),
            probabilities=self.probabilities[row],
            top_k=self.top_k[row] if self.top_k else (),
            ood_score=None if self.ood_score is None else float(self.ood_score[row]),
            out_of_distribution=bool(self.out_of_distribution[row]),
        )

    def __iter__(self) -> Iterator[Prediction]:
        return (self[row] for row in range(len(self)))

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame with a line for each row, its columns named as those of `topclass predict`.

        `top_class`, `label`, `probability`; `label_2`, `probability_2` and so on where ranks were asked for;
        `p_<label>` for each class; `ood_score` from models that measure it; `out_of_distribution`. What holds for the
        whole answer is in its `attrs`: model, version, sha256, provider. ImportError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'topclass[pandas]'") from error
        columns: list[tuple[str, Any]] = [
            ("top_class", self.top_class),
            ("label", list(self.top_label)),
            ("probability", self.probability),
        ]
        for rank in range(1, len(self.top_k[0]) if self.top_k else 0):
            columns.append((f"label_{rank + 1}", [row[rank].label for row in self.top_k]))
            columns.append((f"probability_{rank + 1}", [row[rank].probability for row in self.top_k]))
        for index in range(self.probabilities.shape[1]):
            name = self.labels[index] if self.labels else str(index)
            columns.append((f"p_{name}", self.probabilities[:, index]))
        if self.ood_score is not None:
            columns.append(("ood_score", self.ood_score))
        columns.append(("out_of_distribution", self.out_of_distribution))
        # By number first: two classes may have the same label.
        frame = pandas.DataFrame({number: values for number, (_, values) in enumerate(columns)})
        frame.columns = pandas.Index([name for name, _ in columns])
        frame.attrs = {"model": self.model, "version": self.version, "sha256": self.sha256, "provider": self.provider}
        return frame

    def __repr__(self) -> str:
        shown = [f"{self.top_label[row]!r} {_percent(self.probability[row])}" for row in range(min(len(self), 3))]
        rest = [f"… {len(self) - 3:,} more"] if len(self) > 3 else []
        rows = "1 row" if len(self) == 1 else f"{len(self):,} rows"
        return f"<Result {rows} by {self.model} v{self.version}: {', '.join(shown + rest)}>"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of one model, as the server lists it."""

    name: str
    version: int
    state: str
    """loading, ready or unavailable."""
    reason: str
    """Why it is unavailable; empty otherwise."""
    sha256: str
    """Of its file, 64 hex digits; empty where the file could not be read."""
    provider: str
    """What computes it; empty unless it is ready."""
    newest: bool
    """True for the version that answers where a call names none."""
    aliases: tuple[str, ...] = ()
    """Its names, such as champion; a call may say alias="champion" instead of a version."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model takes: the name of its ONNX input, `uint8` or `float32`, and the shape; None is the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """All that the server knows of one version of one model."""

    info: ModelInfo
    input: InputSpec
    labels: tuple[str, ...]
    """The label of each class, in the order of the probabilities."""
    card: Mapping[str, Any]
    """What the model file says of itself: training data, metrics, certificate; empty where it says nothing."""
    max_rows: int
    """The most rows that one request may have."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.info.name

    @property
    def version(self) -> int:
        """Its version."""
        return self.info.version

    @property
    def sha256(self) -> str:
        """Of its file, 64 hex digits."""
        return self.info.sha256


def _percent(probability: float | np.float32) -> str:
    return f"{100 * float(probability):.1f} %"
