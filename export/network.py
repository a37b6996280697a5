"""A classifier as plain data: what each layer computes, in Keras' own axis order, before any ONNX node is made.

Shapes leave the batch out. Pictures are [H, W, C] here, always; `emit` decides how they lie in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Floats = NDArray[np.float64]
Pads = tuple[int, int, int, int]
"""Top, left, bottom, right: the order of ONNX' `pads`."""
NO_PADS: Pads = (0, 0, 0, 0)


@dataclass
class Op:
    """One step. `name` also names its output; `inputs` name the steps it reads; `shape` is its output's."""

    name: str
    inputs: list[str]
    shape: Shape


@dataclass
class Source(Op):
    """The network's input, as float32."""


@dataclass
class Affine(Op):
    """`x * scale + offset`; both are scalars, shape (), or vectors along the last axis.

    Kept in float64, so that folding one into another loses nothing before the last rounding.
    """

    scale: Floats
    offset: Floats

    def __post_init__(self) -> None:
        self.set(self.scale, self.offset)

    def set(self, scale: Floats, offset: Floats) -> None:
        """Take both, made equal in shape; a vector of one element is a scalar."""
        scale, offset = np.broadcast_arrays(scale, offset)
        shape = () if scale.size == 1 else scale.shape
        self.scale, self.offset = scale.reshape(shape).copy(), offset.reshape(shape).copy()


@dataclass
class Dense(Op):
    """`x @ kernel + bias` over the last axis; kernel [in, out], bias [out]."""

    kernel: Floats
    bias: Floats


@dataclass
class Conv(Op):
    """A 2-D convolution; kernel [height, width, in / groups, out], bias [out]."""

    kernel: Floats
    bias: Floats
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: Pads
    groups: int


@dataclass
class Activation(Op):
    """An elementwise function by Keras' name, with its numbers in the order of `activations.FUNCTIONS`."""

    function: str
    numbers: tuple[float, ...] = ()


@dataclass
class PRelu(Op):
    """`max(x, 0) + slope * min(x, 0)`; slope broadcasts against [H, W, C] or [F]."""

    slope: Floats


@dataclass
class Softmax(Op):
    """Softmax over one axis, counted without the batch and never negative."""

    axis: int


@dataclass
class Pool(Op):
    """Max or average over windows; an average counts only what lies inside the picture."""

    kind: str
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: Pads


@dataclass
class GlobalPool(Op):
    """Max or average over the whole picture: [C], or [1, 1, C] if the shape says so."""

    kind: str


@dataclass
class Reshape(Op):
    """The same elements, row-major, in another shape."""


@dataclass
class Permute(Op):
    """A transposition; `axes` are counted without the batch, from 0."""

    axes: tuple[int, ...]


@dataclass
class Merge(Op):
    """Add, Sub, Mul, Mean or Max of inputs of equal rank, broadcast."""

    kind: str


@dataclass
class Concat(Op):
    """Inputs one after another along `axis`, counted without the batch and never negative."""

    axis: int


@dataclass
class Pad(Op):
    """Zeros around a picture."""

    pads: Pads


@dataclass
class Crop(Op):
    """A picture without its borders."""

    pads: Pads


@dataclass
class UpSample(Op):
    """Each pixel repeated, `factors` times in height and width."""

    factors: tuple[int, int]


@dataclass
class LayerNorm(Op):
    """Normalization over the last axis; scale and offset [C]."""

    scale: Floats
    offset: Floats
    epsilon: float


@dataclass
class Strangeness(Op):
    """The least squared distance of `(x / max(|x|, shortest) - mean) @ whiten` to the centers [C, F]; a number."""

    mean: Floats
    whiten: Floats
    centers: Floats
    shortest: float


@dataclass
class BothSides(Op):
    """One probability p of the second class as two: [1 - p, p]."""


@dataclass
class Network:
    """The steps, each after those it reads, the Source first.

    `output` names the one that gives the probabilities, `score` that of the out-of-distribution score, if any.
    """

    ops: list[Op] = field(default_factory=list)
    output: str = ""
    score: str = ""

    def find(self, name: str) -> Op:
        """Give the step of that name; KeyError if there is none."""
        for op in self.ops:
            if op.name == name:
                return op
        raise KeyError(name)

    def readers(self, name: str) -> list[Op]:
        """Give the steps that read the one of that name, once for each time they do."""
        return [op for op in self.ops for source in op.inputs if source == name]

    def only_reader(self, name: str) -> Op | None:
        """Give the one step that alone sees this one's output, if it is so."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name != self.output else None

    def drop(self, op: Op) -> None:
        """Take out a step of one input; whoever read it reads that input instead."""
        (source,) = op.inputs
        for reader in self.readers(op.name):
            reader.inputs = [source if name == op.name else name for name in reader.inputs]
        if self.output == op.name:
            self.output = source
        self.ops.remove(op)

    def insert_before(self, op: Op, reader: Op) -> None:
        """Put a step of one input between `reader`, the only one that reads that input there, and what it read."""
        reader.inputs = [op.name if name == op.inputs[0] else name for name in reader.inputs]
        self.ops.insert(self.ops.index(reader), op)

    def add(self, op: Op) -> str:
        """Append a step under a name of its own, and give that name."""
        taken = {other.name for other in self.ops}
        wanted, number = op.name, 2
        while op.name in taken:
            op.name, number = f"{wanted}_{number}", number + 1
        self.ops.append(op)
        return op.name
