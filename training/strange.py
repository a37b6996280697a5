"""Inputs that no training set has: what a score of strangeness is measured on. Made from a seed; nothing is fitted."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pictures = NDArray[np.uint8]
Make = Callable[[Pictures, np.random.RandomState], Pictures]


def uniform(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """Every pixel by chance."""
    return random.randint(0, 256, usual.shape).astype(np.uint8)


def constant(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """One value all over, from black to white."""
    levels = random.randint(0, 256, (len(usual), *[1] * (usual.ndim - 1)))
    return np.broadcast_to(levels, usual.shape).astype(np.uint8)


def inverted(usual: Pictures, _: np.random.RandomState) -> Pictures:
    """The negative."""
    return np.asarray(255 - usual, dtype=np.uint8)


def shuffled(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """The same pixels elsewhere."""
    pixels = usual.reshape(len(usual), usual.shape[1] * usual.shape[2], -1)
    return np.stack([each[random.permutation(len(each))] for each in pixels]).reshape(usual.shape)


def gaussian(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """Grey with noise of the normal kind."""
    return np.clip(random.normal(128, 50, usual.shape), 0, 255).astype(np.uint8)


def sparse(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """One white dot in twenty."""
    return ((random.random_sample(usual.shape) < 0.05) * 255).astype(np.uint8)


def stripes(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """Waves of any direction and width."""
    y, x = _grid(usual)
    angle, pace, start = (random.uniform(0, most, (len(usual), 1, 1)) for most in (np.pi, 1.7, 2 * np.pi))
    return _all_channels(127.5 + 127.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * (0.3 + pace) + start), usual)


def dimmed(usual: Pictures, _: np.random.RandomState) -> Pictures:
    """A quarter of the light; still what it was."""
    return usual // 4


def turned(usual: Pictures, _: np.random.RandomState) -> Pictures:
    """A quarter turn; some are still what they were. Only for square pictures."""
    return np.ascontiguousarray(np.rot90(usual, axes=(1, 2)))


def gradients(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """From dark to light in any direction."""
    angle = random.uniform(0, 2 * np.pi, len(usual))
    y, x = _grid(usual)
    ramp = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    low, high = ramp.min(axis=(1, 2), keepdims=True), ramp.max(axis=(1, 2), keepdims=True)
    return _all_channels((ramp - low) / (high - low) * 255, usual)


def checkers(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """Chess boards of any size of field."""
    y, x = _grid(usual)
    side = random.randint(1, 8, (len(usual), 1, 1))
    return _all_channels((y // side + x // side) % 2 * 255, usual)


def letters(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """Strokes as of letters of no alphabet: three lines between points of a grid, in the thickness of digits."""

    def draw(pen: ImageDraw.ImageDraw, height: int, width: int) -> None:
        points = [tuple(point) for point in random.randint(1, 4, (6, 2)) * (width // 4, height // 4)]
        for start, end in zip(points[::2], points[1::2], strict=True):
            pen.line([start, end], fill=255, width=max(1, height // 12))

    return _drawn(usual, draw)


def clothes(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """Shapes as of clothes: a filled body, two sleeves or legs, of one tone."""

    def draw(pen: ImageDraw.ImageDraw, height: int, width: int) -> None:
        tone, wide, long = int(random.randint(90, 256)), random.uniform(0.15, 0.3), random.uniform(0.5, 0.9)
        top, middle = 0.08 * height, width / 2
        body = [middle - wide * width, top, middle + wide * width, top + long * height]
        pen.rectangle(body, fill=tone)
        reach, drop = random.uniform(0.05, 0.2) * width, random.uniform(0.2, long) * height
        pen.rectangle([body[0] - reach, top, body[0], top + drop], fill=tone)
        pen.rectangle([body[2], top, body[2] + reach, top + drop], fill=tone)

    return _drawn(usual, draw)


def halves(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """The upper half of one and the lower half of another."""
    mixed = usual.copy()
    half = usual.shape[1] // 2
    mixed[:, half:] = usual[random.permutation(len(usual)), half:]
    return mixed


def overlaid(usual: Pictures, random: np.random.RandomState) -> Pictures:
    """Two at once."""
    return np.maximum(usual, usual[random.permutation(len(usual))])


KNOWN: dict[str, Make] = {"uniform": uniform, "constant": constant, "inverted": inverted, "shuffled": shuffled}
"""By these the method was chosen, and every report of pictures shows them."""
SEEN: dict[str, Make] = {
    "gaussian": gaussian, "sparse": sparse, "stripes": stripes, "dimmed": dimmed, "turned": turned,
}  # fmt: skip
"""These were looked at, too, while the method was chosen."""
HELD_OUT: dict[str, Make] = {
    "gradients": gradients, "checkers": checkers, "letters": letters, "clothes": clothes,
    "halves": halves, "overlaid": overlaid,
}  # fmt: skip
"""Held out of all choices: looked at when everything was settled."""


def rows_of(usual: NDArray[np.float32], random: np.random.RandomState) -> dict[str, NDArray[np.float32]]:
    """Strange table rows by kind: values of other rows in each column, and rows far outside all that was seen."""
    mixed = np.stack([column[random.permutation(len(column))] for column in usual.T], axis=1)
    spread = usual.std(axis=0, keepdims=True)
    far = usual.mean(axis=0, keepdims=True) + spread * random.choice([-10, 10], usual.shape)
    return {"shuffled": mixed.astype(np.float32), "far away": far.astype(np.float32)}


def _grid(usual: Pictures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    y, x = np.mgrid[: usual.shape[1], : usual.shape[2]]
    return y[None], x[None]


def _drawn(usual: Pictures, draw: Callable[[ImageDraw.ImageDraw, int, int], None]) -> Pictures:
    height, width = usual.shape[1:3]
    drawn = []
    for _ in range(len(usual)):
        canvas = Image.new("L", (width, height))
        draw(ImageDraw.Draw(canvas), height, width)
        drawn.append(np.asarray(canvas))
    return _all_channels(np.stack(drawn), usual)


def _all_channels(grey: NDArray[np.float64] | NDArray[np.int64] | Pictures, usual: Pictures) -> Pictures:
    """Grey pictures [N,H,W] in the shape of the usual ones."""
    values = grey.astype(np.uint8)
    return np.broadcast_to(values[..., None], usual.shape).copy() if usual.ndim == 4 else values
