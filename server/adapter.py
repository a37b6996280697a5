"""From what callers send to what a foreign graph takes, and from what it gives to probabilities. Arrays only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from server.description import DESCRIPTION, Description
from server.errors import ModelRefused

Convert = Callable[[np.ndarray], np.ndarray]


def pictures(described: Description, shape: Sequence[Any], dtype: np.dtype) -> tuple[tuple[int, ...], Convert]:
    """The row (H, W) or (H, W, C) of uint8 that callers send, and what makes the graph's input of such rows.

    shape: the graph's, the batch first, open dimensions as names or None. ModelRefused where it is not what the
    description says.
    """
    if len(shape) != len(described.layout):
        raise ModelRefused(f"its input has shape {list(shape)}; {DESCRIPTION} says that it is {described.layout}")
    sizes = dict(zip(described.layout, shape, strict=True))
    for axis, wanted in zip("HW", described.size or (), strict=False):
        if isinstance(sizes[axis], int) and sizes[axis] != wanted:
            raise ModelRefused(
                f"its input has shape {list(shape)}; {DESCRIPTION} has size = {list(described.size or ())}"
            )
        sizes[axis] = wanted
    row = tuple(sizes[axis] for axis in ("HWC" if "C" in sizes else "HW"))
    if not all(isinstance(size, int) and size > 0 for size in row):
        raise ModelRefused(f"its input has shape {list(shape)}; say its size = [height, width] in {DESCRIPTION}")
    return row, _convert(described, row, dtype)


def _convert(described: Description, row: tuple[int, ...], dtype: np.dtype) -> Convert:
    channels = row[2] if len(row) == 3 else 1
    factor, offset = _affine(described, channels)
    identity = bool((factor == 1).all() and (offset == 0).all())
    if dtype == np.uint8 and not identity:
        raise ModelRefused(f"its input is uint8; {DESCRIPTION} may have scale, mean and std only for float inputs")
    if described.colours == "BGR" and channels != 3:
        raise ModelRefused(f"{DESCRIPTION} has colours = BGR; its input has {channels} channels, not 3")
    planar, reverse = described.layout == "NCHW", described.colours == "BGR"
    if planar:
        factor, offset = factor[:, None, None], offset[:, None, None]
    elif len(row) == 2:
        factor, offset = factor[0], offset[0]

    def convert(rows: np.ndarray) -> np.ndarray:
        rows = rows[..., ::-1] if reverse else rows
        rows = rows.transpose(0, 3, 1, 2) if planar else rows
        out = np.empty(rows.shape, dtype)
        if identity:
            out[...] = rows
        else:
            np.multiply(rows, factor, out=out)
            out += offset
        return out

    return convert


def _affine(described: Description, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(x * scale - mean) / std as x * factor + offset, float32 [channels] each."""
    for key in ("mean", "std"):
        given = len(getattr(described, key))
        if given not in (1, channels):
            raise ModelRefused(f"{DESCRIPTION} has {given} numbers for {key}; the input has {channels} channels")
    mean, std = np.array(described.mean), np.array(described.std)
    factor = np.broadcast_to(described.scale / std, channels)
    offset = np.broadcast_to(-mean / std, channels)
    return factor.astype(np.float32), offset.astype(np.float32)


def answers(output: str) -> Convert:
    """What makes probabilities [n, C] of the graph's output, which is called one of description.OUTPUTS.

    A single column or [n] is of the second class of two: its probability, or the logit of that.
    """
    return {"probabilities": _as_it_is, "logits": _of_logits, "sigmoid": _two_columns}[output]


def _as_it_is(out: np.ndarray) -> np.ndarray:
    return out


def _of_logits(out: np.ndarray) -> np.ndarray:
    if out.ndim == 1 or out.shape[1] == 1:
        column = out.reshape(len(out), 1)
        out = np.concatenate([np.zeros_like(column), column], axis=1)  # a sigmoid is a softmax of these
    powers = np.exp(out - out.max(axis=1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _two_columns(out: np.ndarray) -> np.ndarray:
    if out.ndim == 2 and out.shape[1] != 1:
        raise ModelRefused(f'its output has {out.shape[1]} columns; output = "sigmoid" in {DESCRIPTION} is for one')
    column = out.reshape(len(out), 1)
    return np.concatenate([1 - column, column], axis=1)
