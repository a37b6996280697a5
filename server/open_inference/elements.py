"""The elements of a tensor that came one by one: typed contents of a message, or lists of JSON. Arrays only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from server import checks
from server.errors import InvalidInput
from server.open_inference.stubs import grpc_service_pb2 as pb

CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents"}
_STEP = 1 << 16  # elements that are read at once; more are read in a thread, which lets others go between
_KINDS: dict[type, str] = {
    bool: "true or false", str: "text", type(None): "null", list: "a list", dict: "an object", int: "a number"
}  # fmt: skip


async def typed(tensor: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype) -> np.ndarray:
    """The array in typed contents; InvalidInput where they do not fit the tensor's datatype and shape."""
    right, shape = CONTENTS[tensor.datatype], list(tensor.shape)
    wanted = checks.elements(shape)
    if wrong := [field.name for field, _ in tensor.contents.ListFields() if field.name != right]:
        raise InvalidInput(f"the input is {tensor.datatype}, whose contents are {right}; the request holds {wrong[0]}")
    values = getattr(tensor.contents, right)
    _check_count(len(values), wanted, dtype, shape)
    wide = np.dtype(np.uint32) if dtype == np.uint8 else dtype

    def read() -> np.ndarray:
        return np.concatenate([np.array(values[at : at + _STEP], wide) for at in range(0, len(values), _STEP)])

    array = read() if len(values) <= _STEP else await asyncio.to_thread(read)
    _check_range(array, dtype)
    return array.astype(dtype, copy=False).reshape(shape)


async def listed(data: list[Any], dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """The array in lists of JSON that are not empty, nested as the shape says or flat; InvalidInput where not."""
    wanted = checks.elements(shape)
    if wanted <= _STEP:
        return _of_lists(data, wanted, dtype, shape)
    return await asyncio.to_thread(_of_lists, data, wanted, dtype, shape)


def _of_lists(data: list[Any], wanted: int, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    flat = _flat(data, dtype, shape)
    _check_count(len(flat), wanted, dtype, shape)  # first: what follows looks at each of them
    kinds = set(map(type, flat))
    if wrong := kinds - ({int} if dtype == np.uint8 else {int, float}):
        first = next(value for value in flat if type(value) in wrong)
        what = repr(first) if isinstance(first, float) else _KINDS[type(first)]
        raise InvalidInput(f"the tensor holds {what}; {_takes(dtype)}")
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which no model takes
            array = np.array(flat, None if dtype == np.uint8 else dtype)
    except OverflowError as error:
        raise InvalidInput(f"the tensor holds a number of hundreds of digits; {_takes(dtype)}") from error
    _check_range(array, dtype)
    return array.astype(dtype, copy=False).reshape(shape)


def _flat(data: list[Any], dtype: np.dtype, shape: Sequence[int]) -> list[Any]:
    """The elements of nested lists, each as long as the shape says; a flat list as it is."""
    if type(data[0]) is not list:
        return data
    if len(data) != shape[0]:
        raise _other_length(len(data), 0, shape)
    for depth, length in enumerate(shape[1:], 1):
        if not data or type(data[0]) is not list:
            break
        for each in data:
            if type(each) is not list:
                what = _KINDS.get(type(each), "a number")
                raise InvalidInput(f"the tensor holds {what} beside lists; {_takes(dtype)}")
            if len(each) != length:
                raise _other_length(len(each), depth, shape)
        data = list(chain.from_iterable(data))
    return data


def _other_length(found: int, depth: int, shape: Sequence[int]) -> InvalidInput:
    return InvalidInput(
        f"a list of the tensor has {found} elements, {depth} deep; shape {list(shape)} has {shape[depth]} there"
    )


def _takes(dtype: np.dtype) -> str:
    return "uint8 goes from 0 to 255, in whole numbers" if dtype == np.uint8 else f"{dtype.name} takes numbers"


def _check_count(found: int, wanted: int, dtype: np.dtype, shape: Sequence[int]) -> None:
    if found != wanted:
        raise InvalidInput(f"the tensor holds {found} values; {dtype.name} of shape {list(shape)} takes {wanted}")


def _check_range(array: np.ndarray, dtype: np.dtype) -> None:
    if dtype != np.uint8:
        return
    for worst in (array.max(), array.min()):
        if not 0 <= worst <= 255:
            raise InvalidInput(f"the tensor holds {worst}; uint8 goes from 0 to 255")
