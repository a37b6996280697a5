"""What every protocol asks of a request, in the same words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from server.config import Config
from server.errors import InvalidInput, NotAllowed

MOST_DIMENSIONS = 32


def count(config: Config, rows: int) -> None:
    """InvalidInput where a batch is empty, or has more rows than the server takes."""
    if rows == 0:
        raise InvalidInput("the batch is empty")
    if rows > config.max_request_rows:
        raise InvalidInput(f"the batch has {rows} rows; the server takes at most {config.max_request_rows}")


def version(text: str) -> int:
    """The number of a version, 0 for empty text; InvalidInput where it is none."""
    if not re.fullmatch(r"([1-9][0-9]{0,18})?", text):
        raise InvalidInput(
            f"the version is {text[:64]!r}; it must be a whole number from 1, or empty for the one that answers"
        )
    return int(text or 0)


def control(config: Config, method: str, model: str) -> None:
    """NotAllowed unless callers may load and unload models; InvalidInput where no model is named."""
    if not config.allow_control:
        raise NotAllowed(f"this server takes no {method}: it was not started with --allow-control")
    if not model:
        raise InvalidInput(f"the request names no model; {method} needs one")


def shaped(data: memoryview | bytes, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """The array in these little-endian bytes, without a copy; InvalidInput where they do not fit together."""
    fits(len(data), dtype, shape)
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # an empty batch of enormous rows
        raise InvalidInput(f"no array has shape {list(shape)}") from error


def fits(size: int, dtype: np.dtype, shape: Sequence[int]) -> None:
    """InvalidInput where so many bytes are not a tensor of that shape."""
    wanted = dtype.itemsize * elements(shape)
    if size != wanted:
        raise InvalidInput(f"the tensor holds {size} bytes; {dtype.name} of shape {list(shape)} takes {wanted}")


def elements(shape: Sequence[int]) -> int:
    """How many elements a tensor of that shape has; InvalidInput where it is no shape."""
    if not shape:
        raise InvalidInput("the tensor has no shape")
    if len(shape) > MOST_DIMENSIONS:  # before anything multiplies them
        raise InvalidInput(f"the tensor has {len(shape)} dimensions; the most is {MOST_DIMENSIONS}")
    if min(shape) < 0:
        raise InvalidInput(f"the tensor has shape {list(shape)}; no dimension may be negative")
    product = 1
    for dimension in shape:
        product *= dimension
    return product
