"""One loaded ONNX file: read, checked, warmed, computed. The only place that knows ONNX Runtime."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from server import adapter, description, graph, proof
from server.card import KEY, Card, graph_sha256
from server.card import read as read_card
from server.description import DESCRIPTION, Description
from server.device import Devices
from server.engine import Engine
from server.errors import DeviceUnavailable, InvalidInput, ModelRefused, first_line

log = logging.getLogger(__name__)
DTYPES: dict[str, np.dtype] = {"tensor(uint8)": np.dtype(np.uint8), "tensor(float)": np.dtype(np.float32)}
OOD_OUTPUT = "ood_score"
MEASURE_SECONDS = 0.15  # of start-up, for each model


@dataclass(frozen=True)
class InputSpec:
    """What a model takes: the ONNX input's name, its dtype, and the shape of one row, without the batch."""

    name: str
    dtype: np.dtype
    row: tuple[int, ...]

    @property
    def is_picture(self) -> bool:
        """True for uint8 [H, W] and [H, W, 1 or 3]: what an encoded picture can be decoded to."""
        return self.dtype == np.uint8 and (len(self.row) == 2 or (len(self.row) == 3 and self.row[2] in (1, 3)))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.row)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name} [N, {', '.join(map(str, self.row))}]"


@dataclass(frozen=True)
class Cost:
    """Measured at warm-up: a call takes about `call + row * rows` seconds; `chunk` rows a call are cheapest."""

    call: float
    row: float
    chunk: int

    def seconds(self, rows: int) -> float:
        """The predicted time of `rows` rows."""
        return self.call * -(-rows // self.chunk) + self.row * rows


class Model:
    """A classifier that answers. `compute` may be called from several threads at once."""

    def __init__(self, data: bytes, devices: Devices, described: Description | None = None):
        """Reads a serialized ONNX model; ModelRefused, with the reason, for one that must not be served.

        described: what stands beside a model without a card.
        """
        described = described or Description()
        self.sha256 = hashlib.sha256(data).hexdigest()
        graph_hash = graph_sha256(data)  # before ONNX Runtime: it walks the bytes and finds a truncated file
        graph.refuse_external_data(data)
        self._engine = Engine(data, devices)
        self.provider = self._engine.provider
        session = self._engine.sessions[0]
        self.input, self._prepare = _input_spec(session, described)
        self.card = self._card(graph_hash, described)
        self.ood_threshold = self.card.ood_threshold if self.card else None
        self._outputs, self._finish = _outputs(session, described, self.scored), adapter.answers(described.output)
        self.classes = self._count_classes()
        self.labels = self._labels(data, described)
        self.cost = Cost(1e-3, 0.0, self._engine.chunks[-1])
        self._warm_up()

    @property
    def scored(self) -> bool:
        """True if it says how strange an input is: one more column behind the probabilities."""
        return self.ood_threshold is not None

    def compute(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities float32 [n, C] of rows [n, …] that fit `input`, in calls of the cheapest size.

        Where the model is `scored`, [n, C + 1]: the last column is the score, larger for stranger inputs.
        """
        chunk = self.cost.chunk
        if len(rows) <= (chunk if self._engine.buckets else chunk * 3 // 2):
            return self._run(rows)
        answers = np.empty((len(rows), self.classes + self.scored), np.float32)
        for start in range(0, len(rows), chunk):
            answers[start : start + chunk] = self._run(rows[start : start + chunk])
        return answers

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """What `compute` gives, without the score."""
        return self.compute(rows)[:, : self.classes]

    def check(self, rows: np.ndarray) -> None:
        """InvalidInput, naming both, unless the array [n, …] is what the model takes; floats must be finite."""
        if rows.dtype != self.input.dtype:
            raise InvalidInput(f"the input is {rows.dtype.name}; the model takes {self.input}")
        if rows.shape[1:] != self.input.row:
            raise InvalidInput(f"the input has shape {list(rows.shape)}; the model takes {self.input}")
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            row = int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
            raise InvalidInput(f"row {row} holds a value that is not finite", row=row)

    def _run(self, rows: np.ndarray) -> np.ndarray:
        return self._columns(self._engine.run(self._outputs, self.input.name, self._prepare(rows)))

    def _run_on(self, device: int, rows: np.ndarray) -> np.ndarray:
        return self._columns(self._engine.run_on(device, self._outputs, self.input.name, self._prepare(rows)))

    def _columns(self, outputs: list[np.ndarray]) -> np.ndarray:
        probabilities = self._finish(outputs[0])
        return np.concatenate([probabilities, outputs[1][:, None]], axis=1) if self.scored else probabilities

    def _card(self, graph_hash: str, described: Description) -> Card | None:
        text = self._engine.sessions[0].get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            return None
        if described.described:
            raise ModelRefused(f"it has a card, which describes it, and {DESCRIPTION} beside it; remove {DESCRIPTION}")
        card = read_card(text)
        if card.graph_sha256 != graph_hash:
            raise ModelRefused(
                f"its graph has sha256 {graph_hash[:12]}…, its card certifies {card.graph_sha256[:12]}…: "
                "the file was changed after it was exported"
            )
        return card

    def _labels(self, data: bytes, described: Description) -> tuple[str, ...]:
        """From its card, else from the files beside it, else from its node, else the indices."""
        labels, origin = described.labels, described.labels_from
        if self.card and self.card.labels:
            if labels and labels != self.card.labels:
                raise ModelRefused(f"its card and {origin} have different labels; remove {origin}")
            labels, origin = self.card.labels, "its card"
        if labels and len(labels) != self.classes:
            raise ModelRefused(f"{origin} has {len(labels)} labels for {self.classes} classes")
        inside = () if labels else graph.class_labels(data)
        return labels or (inside if len(inside) == self.classes else tuple(map(str, range(self.classes))))

    def _count_classes(self) -> int:
        """How many columns the answers have; ModelRefused unless two rows give two, and at least two columns."""
        out = self._try(np.zeros((2, *self.input.row), self.input.dtype))
        if out.ndim != 2 or len(out) != 2:
            raise ModelRefused(f"two rows give an output of shape {list(out.shape)}; it must be [2, C]")
        classes = out.shape[1] - self.scored
        if classes < 2:
            raise ModelRefused(
                f"its output has shape {[2, classes]}; it must be [N, C] with at least two classes. If it is the "
                f'probability of the second of two, say output = "sigmoid" in {DESCRIPTION}; "logits" if it is a logit'
            )
        return int(classes)

    def _try(self, rows: np.ndarray) -> np.ndarray:
        try:
            return self._run(rows)
        except ModelRefused:
            raise
        except Exception as error:  # ONNX Runtime has a dozen exception classes and no common base but this
            raise ModelRefused(f"it cannot be computed: {first_line(error)}") from error

    def _warm_up(self) -> None:
        """Proves on this machine and provider that it computes what its exporter computed, and measures its cost."""
        try:
            chunks = self._engine.chunks
            zeros = np.zeros((chunks[-1], *self.input.row), self.input.dtype)
            for device in range(len(self._engine.sessions)):
                self._prove(functools.partial(self._run_on, device))
                for size in self._engine.buckets:
                    self._run_on(device, zeros[:size])
            self.cost = _measure(self._run, zeros, chunks)
        except ModelRefused:
            raise
        except Exception as error:  # ONNX Runtime has a dozen exception classes and no common base but this
            raise ModelRefused(f"it cannot be computed: {first_line(error)}") from error

    def _prove(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        if self.card and self.card.golden:
            proof.golden(run, self.card.golden, self.classes, self.check, self.provider)
        else:
            proof.probabilities(run, self.input.row, self.input.dtype, self.classes, self._outputs[0])


def load(path: Path, devices: Devices) -> Model:
    """The model in a file, with what stands beside it; ModelRefused with the reason where it cannot be served."""
    described = description.read(path.parent)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"it cannot be read: {error.strerror}") from error
    if not data:
        raise ModelRefused("the file is empty")
    try:
        return Model(data, devices, described)
    except (ModelRefused, DeviceUnavailable):
        raise
    except Exception as error:  # such as names that are not UTF-8: one strange file must not stop the others
        log.exception("%s: an unforeseen fault", path)
        raise ModelRefused(f"it cannot be read: {type(error).__name__}: {error}") from error


def _input_spec(session: ort.InferenceSession, described: Description) -> tuple[InputSpec, adapter.Convert]:
    """What callers send, and what makes the graph's input of it."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelRefused(f"it has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); it must have one")
    [node] = inputs
    if node.type not in DTYPES:
        raise ModelRefused(f"its input is {node.type}; it must be one of {', '.join(DTYPES)}")
    if len(node.shape) < 2 or isinstance(node.shape[0], int):
        raise ModelRefused(
            f"its input has shape {node.shape}; the first dimension must be a symbolic batch axis: export it with one "
            "(PyTorch: dynamic_axes or dynamic_shapes; tf2onnx: an input signature with None; onnx: a dim_param)"
        )
    dtype = DTYPES[node.type]
    if described.layout:
        row, convert = adapter.pictures(described, node.shape, dtype)
        return InputSpec(node.name, np.dtype(np.uint8), row), convert
    row = tuple(node.shape[1:])
    if not all(isinstance(size, int) and size > 0 for size in row):
        raise ModelRefused(
            f"its input has shape {node.shape}; all dimensions but the batch must be fixed. If it is pictures, say "
            f"their layout and size in {DESCRIPTION} beside it"
        )
    return InputSpec(node.name, dtype, row), lambda rows: rows


def _outputs(session: ort.InferenceSession, described: Description, scored: bool) -> tuple[str, ...]:
    """The output with the answer, and that with the score where the card has a threshold for it."""
    if not scored:
        return (_output(session, described),)
    if [o.shape[1:] for o in session.get_outputs() if o.name == OOD_OUTPUT and o.type == "tensor(float)"] != [[]]:
        raise ModelRefused(
            f"its card has an out-of-distribution threshold; it must have an output {OOD_OUTPUT}, float [N]"
        )
    return _output(session, described), OOD_OUTPUT


def _output(session: ort.InferenceSession, described: Description) -> str:
    """The name of the output that holds the answer: the one that the description names, else the one that can."""
    outputs = session.get_outputs()
    told = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    wanted = described.output_name or "probabilities"
    named = [o for o in outputs if o.name == wanted] or outputs
    if described.output_name and named is outputs:
        raise ModelRefused(f"{DESCRIPTION} has output_name = {wanted}; its outputs are {told}")
    ranks = (2,) if described.output == "probabilities" else (1, 2)
    fitting = [o for o in named if o.type == "tensor(float)" and len(o.shape) in ranks]
    if not fitting and any(o.type.startswith("seq(map(") for o in outputs):
        raise ModelRefused(
            f"it has outputs {told}: a sequence of maps (ZipMap); export it without, by "
            "convert_sklearn(…, options={'zipmap': False})"
        )
    if len(fitting) != 1:
        raise ModelRefused(
            f"it has outputs {told}; one of them must be float [N, C], or be named probabilities, or by output_name in "
            f"{DESCRIPTION} beside it"
        )
    name: str = fitting[0].name
    return name


def _measure(run: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, chunks: Sequence[int]) -> Cost:
    """The cost of calls of several sizes, interleaved, the best of a few: noise only ever makes a call slower."""
    best = dict.fromkeys((1, *chunks), math.inf)
    stop = time.perf_counter() + MEASURE_SECONDS
    for size in itertools.islice(itertools.cycle(best), 8 * len(best)):
        start = time.perf_counter()
        if start > stop and best[chunks[0]] < math.inf:
            break
        run(rows[:size])
        best[size] = min(best[size], time.perf_counter() - start)
    chunk = min(chunks, key=lambda size: best[size] / size)
    row = max(0.0, (best[chunk] - best[1]) / (chunk - 1))
    return Cost(max(best[1] - row, 0.0), row, chunk)
