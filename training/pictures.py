"""Reads a folder of pictures: one folder for each class, named as the class is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.errors import DataError
from training.npz import Contents

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # those that the server decodes
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
USUAL_SIZE = (64, 64)
LARGEST_SIDE = 128
"""Pictures of one size up to this side are taken as they are; a larger one would train for days."""
NAMED_AT_MOST = 10

Size = tuple[int, int]


def read(folder: Path, size: Size | None = None, channels: int | None = None) -> Contents:
    """Read FOLDER/CLASS/picture, or FOLDER/train/CLASS/… and FOLDER/test/CLASS/….

    Every picture is made `size` (height, width), stretched as the server stretches those that it is sent; without, they
    keep their own size where it is one and the same and at most 128 a side, else they get 64x64. With `channels` 1 they
    are made grey, with 3 coloured; without, they are grey only if all of them are. Raises DataError, which names every
    file that is no picture.
    """
    train, test = folder / "train", folder / "test"
    parted = train.is_dir() and test.is_dir()
    names, files, notes = _files(train if parted else folder)
    held_out: list[tuple[Path, int]] = []
    if parted:
        test_names, held_out, more = _files(test)
        notes += more
        if test_names != names:
            raise DataError(
                f"{folder}: train has the classes {_some(names)}, test {_some(test_names)}; expected the same"
            )
    heads = _look([path for path, _ in [*files, *held_out]], folder)
    size = size or _common_size(heads, notes)
    colour = any(colour for _, colour in heads) if channels is None else channels == 3
    inputs = _decode([path for path, _ in files], size, colour, folder)
    labels = np.array([label for _, label in files], np.int64)
    if not parted:
        return Contents(inputs, labels, None, None, names, None, tuple(notes))
    test_inputs = _decode([path for path, _ in held_out], size, colour, folder)
    test_labels = np.array([label for _, label in held_out], np.int64)
    return Contents(inputs, labels, test_inputs, test_labels, names, None, tuple(notes))


def _files(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]], list[str]]:
    """The classes, each picture with its class, and what was passed over."""
    try:
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        found = [(path, label) for label, each in enumerate(classes) for path in sorted(each.rglob("*"))]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    files = [(path, label) for path, label in found if path.is_file() and not path.name.startswith(".")]
    if len(classes) < 2:
        raise DataError(f"{folder}: {len(classes)} folders inside; expected one for each class, at least two")
    known = [(path, label) for path, label in files if path.suffix.lower() in SUFFIXES]
    for label, each in enumerate(classes):
        if all(own != label for _, own in known):
            raise DataError(f"{each}: no picture inside; expected {', '.join(sorted(SUFFIXES))}")
    others = [path for path, _ in files if path.suffix.lower() not in SUFFIXES]
    notes = [f"ignored, no pictures by their names: {_some(path.name for path in others)}"] if others else []
    return tuple(each.name for each in classes), known, notes


def _look(paths: Sequence[Path], folder: Path) -> list[tuple[Size, bool]]:
    """(size, whether it has colours) of each picture, by its head; DataError naming those that have none."""
    heads, broken = [], []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path, formats=FORMATS) as picture:
                    turned = "exif" in picture.info and picture.getexif().get(0x0112, 1) >= 5
                    height, width = (picture.width, picture.height) if turned else (picture.height, picture.width)
                    heads.append(((height, width), not picture.mode.startswith(("1", "L", "I", "F"))))
        except Exception as error:  # Pillow raises whatever its decoders meet
            broken.append((path, error))
    _refuse(broken, folder)
    return heads


def _common_size(heads: Sequence[tuple[Size, bool]], notes: list[str]) -> Size:
    sizes = sorted({size for size, _ in heads})
    if len(sizes) == 1 and max(sizes[0]) <= LARGEST_SIDE:
        return sizes[0]
    smallest, largest = ("x".join(map(str, size)) for size in (sizes[0], sizes[-1]))
    found = smallest if len(sizes) == 1 else f"from {smallest} to {largest}"
    notes.append(f"the pictures are {found}: made {'x'.join(map(str, USUAL_SIZE))} (--size HxW makes them another)")
    return USUAL_SIZE


def _decode(paths: Sequence[Path], size: Size, colour: bool, folder: Path) -> NDArray[np.uint8]:
    pictures = np.empty((len(paths), *size, *((3,) if colour else ())), np.uint8)
    broken = []
    for row, path in enumerate(paths):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path, formats=FORMATS) as picture:
                    pictures[row] = _fitted(ImageOps.exif_transpose(picture), size, colour)
        except Exception as error:
            broken.append((path, error))
    _refuse(broken, folder)
    return pictures


def _fitted(picture: Image.Image, size: Size, colour: bool) -> NDArray[np.uint8]:
    """As the server makes a picture that it is sent fit a model: upright, on white, stretched."""
    if picture.mode.startswith("I"):
        high = (np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255)
        picture = Image.fromarray(high.astype(np.uint8))
    elif picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    picture = picture.convert("RGB" if colour else "L")
    height, width = size
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)


def _refuse(broken: Sequence[tuple[Path, Exception]], folder: Path) -> None:
    if broken:
        words = _some(f"{path.relative_to(folder)}" for path, _ in broken)
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DataError(f"{folder}: {len(broken)} of its files cannot be read as {kinds}: {words}; remove or mend them")


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f", and {len(every) - NAMED_AT_MOST} more" if len(every) > NAMED_AT_MOST else ""
    return ", ".join(every[:NAMED_AT_MOST]) + more
