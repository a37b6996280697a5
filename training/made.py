"""Small datasets that are made and not measured: truth tables, two clouds of points, and three shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.npz import Contents

FALSE_TRUE = ("false", "true")
LABELS: dict[str, tuple[str, ...]] = {
    "and": FALSE_TRUE,
    "or": FALSE_TRUE,
    "xor": FALSE_TRUE,
    "separable": ("below", "above"),
    "patterns": ("curve", "diagonal", "line"),
}
WHOLE = ("and", "or", "xor")
"""Those whose rows are all there can be: nothing is held out."""
SEED = 20260
SIDE = 7
PATTERN_ROWS = 6000
CLOUD_ROWS = 200


def contents(name: str) -> Contents:
    """The rows of one of LABELS, the same ones every time."""
    if name == "patterns":
        pictures, labels = patterns(PATTERN_ROWS, np.random.RandomState(SEED))
        return Contents(pictures, labels, None, None, LABELS[name], None, ())
    rows, labels = _clouds() if name == "separable" else _truth(name)
    return Contents(rows, labels, None, None, LABELS[name], ("x1", "x2"), ())


def _truth(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rows = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    truth = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}[name]
    return rows, np.array(truth, np.int64)


def _clouds() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points of the unit square on both sides of the line x1 + x2 = 1, none nearer to it than 0.1."""
    points = np.random.RandomState(SEED).uniform(0, 1, (4 * CLOUD_ROWS, 2))
    far = points[np.abs(points.sum(axis=1) - 1) > 0.1 * np.sqrt(2)][:CLOUD_ROWS]
    return far.astype(np.float32), (far.sum(axis=1) > 1).astype(np.int64)


def patterns(rows: int, random: np.random.RandomState) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 pictures [rows, 7, 7] of a curve (0), a diagonal (1) or a horizontal line (2), and these labels.

    Each is drawn bright on dark, moved by up to one pixel each way, with a brightness of its own, and noise on every
    pixel.
    """
    shapes = _shapes()
    labels = random.permutation(np.arange(rows) % len(shapes)).astype(np.int64)
    pictures = np.empty((rows, SIDE, SIDE), np.uint8)
    for row, label in enumerate(labels):
        down, right = random.randint(-1, 2, 2)
        drawn = shapes[label][1 + down : 1 + down + SIDE, 1 + right : 1 + right + SIDE]
        bright = drawn * random.uniform(110, 255) + random.normal(20, 45, (SIDE, SIDE))
        pictures[row] = np.clip(np.rint(bright), 0, 255)
    return pictures, labels


def _shapes() -> NDArray[np.float64]:
    """The three shapes, drawn on 9x9, so that a window of 7x7 can be moved over them."""
    curve, diagonal, line = np.zeros((3, SIDE + 2, SIDE + 2))
    for y, x in ((2, 4), (2, 5), (3, 3), (4, 2), (5, 2), (6, 3), (7, 4), (7, 5), (2, 6), (7, 6)):
        curve[y, x] = 1
    np.fill_diagonal(diagonal, 1)
    line[4, :] = 1
    return np.stack([curve, diagonal, line])
