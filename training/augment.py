"""Pictures varied as they are fed, so that every epoch shows others. Nothing of it is in the network, nor served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any


@dataclass(frozen=True)
class Augmentation:
    """How far a picture may be moved (pixels), turned (degrees) and zoomed (share), and whether it may be mirrored.

    What comes in from outside is black, or with `reflect` the picture's own border mirrored. `cut` is the side, in
    pixels, of a grey square laid somewhere on it (0: none).
    """

    shift: int = 0
    turn: float = 0.0
    zoom: float = 0.0
    mirror: bool = False
    reflect: bool = False
    cut: int = 0

    def build(self, row_shape: tuple[int, ...]) -> Callable[[Any, Any], Any]:
        """A function of tensors for tf.data: uint8 pictures [n, *row_shape] and a seed [2] give float32 pictures."""
        import tensorflow as tf

        height, width = row_shape[:2]
        grey = len(row_shape) == 2
        moved_only = not self.turn and not self.zoom

        def vary(pictures: Any, seed: Any) -> Any:
            n = tf.shape(pictures)[0]
            random = tf.random.stateless_uniform([7, n], seed, -1.0, 1.0)
            right, down = random[0] * self.shift, random[1] * self.shift
            if moved_only:
                right, down = tf.round(right), tf.round(down)
            angle = random[2] * (self.turn * pi / 180)
            scale = 1.0 + random[3] * self.zoom
            flip = tf.where(random[4] < 0, -1.0, 1.0) if self.mirror else tf.ones([n])
            cosine, sine = tf.cos(angle) * scale, tf.sin(angle) * scale
            # Where the pixel (x, y) of the result is taken from: turned, zoomed, mirrored about the middle, then moved.
            middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
            a, b, d, e = cosine * flip, -sine, sine * flip, cosine
            c = middle_x - a * middle_x - b * middle_y + right
            f = middle_y - d * middle_x - e * middle_y + down
            zero = tf.zeros([n])
            given = tf.cast(pictures, tf.float32)
            varied = tf.raw_ops.ImageProjectiveTransformV3(
                images=given[..., None] if grey else given,
                transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
                output_shape=[height, width],
                interpolation="NEAREST" if moved_only else "BILINEAR",
                fill_mode="REFLECT" if self.reflect else "CONSTANT",
                fill_value=0.0,
            )
            if self.cut:
                varied = self._covered(varied, random[5], random[6])
            return varied[..., 0] if grey else varied

        return vary

    def _covered(self, pictures: Any, across: Any, down: Any) -> Any:
        import tensorflow as tf

        height, width = pictures.shape[1:3]
        x = tf.range(width, dtype=tf.float32)[None] - (across[:, None] + 1) / 2 * (width - 1)
        y = tf.range(height, dtype=tf.float32)[None] - (down[:, None] + 1) / 2 * (height - 1)
        half = self.cut / 2
        inside = (tf.abs(y) < half)[:, :, None] & (tf.abs(x) < half)[:, None, :]
        return tf.where(inside[..., None], 127.5, pictures)
