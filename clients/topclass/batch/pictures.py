"""Picture files to arrays, as the server's own decoder does it; and dark ink on white paper turned over.

The server decodes what it can; what it cannot (TIFF and others), and what is to be inverted, is decoded here, in
threads. The rules are those of server/images.py, and a test holds the two equal.
"""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed

Invert = Literal["never", "auto", "always"]

MOST_PIXELS = 4096 * 4096  # of one picture: the server's own default
_LIGHT, _DARK = 192, 64  # medians of the border: paper, and its opposite
_LOOKED_AT = 64  # pictures that the notice judges by
# How the files begin that every server decodes.
_SERVERS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")


class BadPicture(ValueError):
    """A file is no picture that can be read; the words say why."""


def server_reads(data: bytes) -> bool:
    """True for what the server decodes itself, and for what nobody does: it says so best."""
    return data.startswith(_SERVERS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or not data


def decode(data: bytes, row: tuple[int, ...]) -> NDArray[np.uint8]:
    """One picture, uint8 of the shape `row`: [H, W], [H, W, 1] or [H, W, 3]. BadPicture where there is none."""
    from PIL import Image, ImageOps

    if not data:
        raise BadPicture("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, and of damaged EXIF blocks
            picture = Image.open(io.BytesIO(data))
            if picture.width * picture.height > MOST_PIXELS:
                raise BadPicture(f"has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS:,} are decoded")
            return _fit(ImageOps.exif_transpose(picture), row)
    except BadPicture:
        raise
    except Exception as error:  # Pillow raises whatever its decoders meet
        raise BadPicture("cannot be decoded: it is no whole picture of a kind that Pillow reads") from error


def _fit(picture: Any, row: tuple[int, ...]) -> NDArray[np.uint8]:
    from PIL import Image

    colour = len(row) == 3 and row[2] == 3
    picture = _flat(picture).convert("RGB" if colour else "L")
    height, width = row[:2]
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(row)


def _flat(picture: Any) -> Any:
    from PIL import Image

    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture


# ---------------------------------------------------------------------------------------------------------- ink, paper


def borders(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[N]: the median of each picture's outermost pixels."""
    edges = (pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1])
    found: NDArray[np.float64] = np.median(
        np.concatenate([edge.reshape(len(pictures), -1) for edge in edges], 1), axis=1
    )
    return found


def on_white(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[N]: whether it looks like dark ink on white: a light border, and something darker inside it."""
    if not len(pictures):
        return np.zeros(0, np.bool_)
    darkest = pictures.reshape(len(pictures), -1).min(axis=1)
    found: NDArray[np.bool_] = (borders(pictures) >= _LIGHT) & (darkest < _LIGHT - _DARK)
    return found


def light_on_dark(card: Mapping[str, Any]) -> bool | None:
    """Whether the model learned from light ink on a dark ground, by the samples in its card; None if nothing says."""
    golden = card.get("golden")
    try:
        if not golden or golden["dtype"] != "uint8":
            return None
        data = base64.b64decode(golden["inputs_base64"])
        middle = float(np.median(borders(np.frombuffer(data, np.uint8).reshape(golden["shape"]))))
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return True if middle <= _DARK else False if middle >= _LIGHT else None


@dataclass
class Fitting:
    """How chunks become what is sent; counts what it turns over."""

    row: tuple[int, ...]
    invert: Invert = "never"
    notice: Callable[[], None] | None = None
    """Called once if the first pictures look like dark ink on white."""
    inverted: int = 0

    @property
    def takes_pictures(self) -> bool:
        """True where the model's rows are pictures."""
        return len(self.row) >= 2

    def prepare(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The chunks as they are sent, in order; decoded in threads, a few ahead, where that is ours to do."""
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        pool = ThreadPoolExecutor(workers, thread_name_prefix="topclass-decode")
        waiting: deque[Chunk | Future[Chunk]] = deque()
        try:
            for chunk in chunks:
                if self.notice and len(chunk.inputs):
                    if self.looks_inverted(chunk):
                        self.notice()
                    self.notice = None
                ours = self._is_ours(chunk)
                if ours:
                    require_pillow()
                waiting.append(pool.submit(self._decoded, chunk) if ours else chunk)
                if (not ours and len(waiting) == 1) or len(waiting) > workers:
                    yield self._turned(waiting.popleft())
            while waiting:
                yield self._turned(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _is_ours(self, chunk: Chunk) -> bool:
        if isinstance(chunk.inputs, np.ndarray) or not self.takes_pictures:
            return False
        return self.invert != "never" or not all(map(server_reads, chunk.inputs))

    def _decoded(self, chunk: Chunk) -> Chunk:
        errors, pictures = dict(chunk.errors), []
        for row, data in zip(chunk.good, chunk.inputs, strict=True):
            try:
                pictures.append(decode(data, self.row))
            except BadPicture as error:
                errors[row] = str(error)
        array = np.stack(pictures) if pictures else np.empty((0, *self.row), np.uint8)
        return replace(chunk, inputs=array, errors=errors)

    def _turned(self, waiting: Chunk | Future[Chunk]) -> Chunk:
        chunk = waiting.result() if isinstance(waiting, Future) else waiting
        inputs = chunk.inputs
        if self.invert == "never" or not isinstance(inputs, np.ndarray) or inputs.dtype != np.uint8 or inputs.ndim < 3:
            return chunk
        chosen = on_white(inputs) if self.invert == "auto" else np.ones(len(inputs), np.bool_)
        self.inverted += int(chosen.sum())
        turned = inputs.copy()
        turned[chosen] = 255 - turned[chosen]
        return replace(chunk, inputs=turned)

    def looks_inverted(self, chunk: Chunk) -> bool:
        """Whether most pictures of a chunk look like dark ink on white; False where they cannot be looked at."""
        inputs: Any = chunk.inputs[:_LOOKED_AT]
        if not isinstance(inputs, np.ndarray):
            try:
                inputs = self._decoded(Chunk(list(map(str, range(len(inputs)))), inputs)).inputs
            except ImportError:
                return False
        if inputs.dtype != np.uint8 or inputs.ndim < 3 or not len(inputs):
            return False
        return bool(on_white(inputs).mean() > 0.5)


def require_pillow() -> None:
    """Failed where Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise Failed(
            "these pictures are decoded here, which needs Pillow, and that is not installed: "
            "pip install 'topclass[images]'"
        ) from None
