"""Encoded pictures to arrays: decoded, upright, grey or colour as the model wants, stretched to its size."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from server.errors import DeadlinePassed, InvalidInput
from server.model import InputSpec

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # what browsers show; each more is more attack surface
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before any pixel is decoded


@dataclass(frozen=True)
class Limits:
    """The most pixels of one picture, and of all pictures of a request together."""

    pixels: int
    request_pixels: int


def decode(
    files: Sequence[bytes], spec: InputSpec, limits: Limits, gone: Callable[[], bool] = lambda: False
) -> np.ndarray:
    """uint8 [n, H, W] or [n, H, W, C] as `spec` says; InvalidInput names the index of a picture that is none.

    gone: asked before each picture whether nobody waits for them any more; DeadlinePassed then.
    """
    rows = np.empty((len(files), *spec.row), np.uint8)
    left = limits.request_pixels
    for index, file in enumerate(files):
        if gone():
            raise DeadlinePassed(f"the deadline passed while picture {index} waited to be decoded")
        try:
            picture = open_one(file, limits.pixels)
            left -= picture.width * picture.height
            if left < 0:
                raise InvalidInput(f"is one too many: a request may have {limits.request_pixels} pixels in all")
            rows[index] = decode_one(picture, spec)
        except InvalidInput as error:
            raise InvalidInput(f"picture {index} {error}", row=index) from error
    return rows


def open_one(file: bytes, max_pixels: int) -> Image.Image:
    """A picture whose pixels are not decoded yet; InvalidInput for what is none, or is too large."""
    if not file:
        raise InvalidInput("is empty")
    with _told_as_callers_fault():
        picture = Image.open(io.BytesIO(file), formats=FORMATS)
    if picture.width * picture.height > max_pixels:
        raise InvalidInput(f"has {picture.width} x {picture.height} pixels; the server decodes at most {max_pixels}")
    return picture


def decode_one(picture: Image.Image, spec: InputSpec) -> np.ndarray:
    """One picture, uint8 of the shape `spec.row`.

    A picture that has the model's size and colours already comes through unchanged, value for value.
    Transparency is laid on white, as viewers do; 16-bit grey keeps its high byte.
    """
    with _told_as_callers_fault():
        return _fit(ImageOps.exif_transpose(picture), spec)


@contextlib.contextmanager
def _told_as_callers_fault() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged EXIF block is the picture's problem, not the log's
            yield
    except Exception as error:  # Pillow raises whatever its decoders meet
        raise InvalidInput(f"cannot be decoded: it is no whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error


def _fit(picture: Image.Image, spec: InputSpec) -> np.ndarray:
    colour = len(spec.row) == 3 and spec.row[2] == 3
    picture = _flat(picture).convert("RGB" if colour else "L")
    height, width = spec.row[:2]
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(spec.row)


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture
