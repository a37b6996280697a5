"""What people may write beside a model.onnx that has no card: `labels.txt` and `model.toml`. See docs/models.md."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import ModelRefused

LABELS, DESCRIPTION = "labels.txt", "model.toml"
LAYOUTS = ("NHW", "NHWC", "NCHW")
OUTPUTS = ("probabilities", "logits", "sigmoid")
_LIMIT = 16 << 20  # bytes of one file; a million labels fit
_PICTURE_KEYS = ("size", "colours", "scale", "mean", "std")


@dataclass(frozen=True)
class Description:
    """How to feed a foreign classifier and how to read its answer. The default is: as it is.

    layout: of a picture input; with it callers send uint8 [N, H, W] or [N, H, W, C], and the graph gets
    `(x * scale - mean) / std`, float or uint8 as it takes, in that layout. size: (H, W) where the graph leaves them
    open. colours: RGB or BGR, what the graph wants. mean, std: one number, or one for each channel of the graph.
    """

    labels: tuple[str, ...] = ()
    labels_from: str = ""  # the file that they stand in
    layout: str = ""
    size: tuple[int, int] | None = None
    colours: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    output: str = "probabilities"
    output_name: str = ""
    described: bool = False  # there is a model.toml


def read(folder: Path) -> Description:
    """The description in a version's folder; ModelRefused, with the file and the key, where it is wrong."""
    labels = _labels(folder)
    text = _text(folder / DESCRIPTION)
    if text is None:
        return Description(labels=labels, labels_from=LABELS if labels else "")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelRefused(f"{DESCRIPTION} is not TOML: {error}") from error
    except RecursionError as error:
        raise ModelRefused(f"{DESCRIPTION} is nested too deeply") from error
    return _described(values, labels)


def _described(values: dict[str, Any], labels: tuple[str, ...]) -> Description:
    if unknown := sorted(values.keys() - _READ.keys()):
        raise ModelRefused(f"{DESCRIPTION} has unknown keys: {', '.join(unknown)}; it may have {', '.join(_READ)}")
    fields = {key: _value(key, value) for key, value in values.items()}
    if "layout" not in fields and (alone := [key for key in _PICTURE_KEYS if key in fields]):
        raise ModelRefused(
            f"{DESCRIPTION} has {', '.join(alone)} but no layout; these are for pictures: NHW, NHWC or NCHW"
        )
    named = fields.setdefault("labels", labels)
    if labels and named != labels:
        raise ModelRefused(f"{LABELS} and {DESCRIPTION} have different labels; keep one of them")
    return Description(**fields, labels_from=LABELS if labels else DESCRIPTION if named else "", described=True)


def _labels(folder: Path) -> tuple[str, ...]:
    """One label a line; empty where there is no such file."""
    text = _text(folder / LABELS)
    if text is None:
        return ()
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if "" in lines:
        raise ModelRefused(f"{LABELS} has an empty line, line {lines.index('') + 1}; it must have one label a line")
    return tuple(lines)


def _text(file: Path) -> str | None:
    """A file's text, None where there is none."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelRefused(f"{file.name} cannot be read: {error.strerror}") from error
    if len(data) > _LIMIT:
        raise ModelRefused(f"{file.name} has more than {_LIMIT} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelRefused(f"{file.name} is not UTF-8: {error}") from error


# ---- the keys of model.toml ----


def _value(key: str, value: Any) -> Any:
    read, wanted = _READ[key]
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise ModelRefused(f"{DESCRIPTION} has {key} = {str(value)[:100]}; it must be {wanted}") from error


def _one_of(*choices: str) -> Any:
    def read(value: Any) -> str:
        return choices[choices.index(value)]

    return read


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _strings(value: list[Any]) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise TypeError
    return tuple(map(_string, value))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _positive(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError
    return number


def _numbers(value: Any) -> tuple[float, ...]:
    if value == []:
        raise ValueError
    return tuple(map(_number, value if isinstance(value, list) else [value]))


def _positives(value: Any) -> tuple[float, ...]:
    return tuple(map(_positive, _numbers(value)))


def _size(value: Any) -> tuple[int, int]:
    height, width = value
    if type(height) is not int or type(width) is not int or not 0 < min(height, width) <= max(height, width) <= 16384:
        raise ValueError
    return height, width


_READ: dict[str, tuple[Any, str]] = {
    "labels": (_strings, "a list of strings"),
    "layout": (_one_of(*LAYOUTS), "NHW, NHWC or NCHW"),
    "size": (_size, "[height, width]"),
    "colours": (_one_of("RGB", "BGR"), "RGB or BGR"),
    "scale": (_positive, "a number over 0"),
    "mean": (_numbers, "a number, or a list with one for each channel"),
    "std": (_positives, "a number over 0, or a list with one for each channel"),
    "output": (_one_of(*OUTPUTS), "probabilities, logits or sigmoid"),
    "output_name": (_string, "the name of an output"),
}
