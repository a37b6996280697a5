"""Float32 as decimal text, a whole column at once: python's own way takes longer than the server's computation.

A column of cells is a uint8 matrix, a row for each cell, padded with zero bytes that are dropped in the end. Each
number has 7, 8 or 9 digits, as few as give back the same float32, and no zeros at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Cells: TypeAlias = NDArray[np.uint8]

_ZERO, _POINT, _E, _MINUS = b"0.e-"
_DIGITS = 9
_WIDTH = 18  # 0.0000, and nine digits in twelve bytes; 1.23456789e-12 has fewer
_FIXED = -5  # the smallest exponent that is written without e
_POWERS = 10.0 ** np.arange(60)
_THREE = [f"{n:03}" for n in range(1000)]
_WHOLE = np.array([text.encode() for text in _THREE], "S4").view(np.uint32)  # three digits at once
_CUT = np.array([text.rstrip("0").encode() for text in _THREE], "S4").view(np.uint32)
_HEAD = 6  # bytes of 0.0000
_HEADS = np.array([b"0." + b"0" * zeros for zeros in range(5)], "S8").view(np.uint64)


def text_cells(texts: Iterable[str]) -> Cells:
    """The same of texts, which must hold no zero character."""
    return np.array([text.encode("utf-8", "backslashreplace") for text in texts], np.bytes_)[:, None].view(np.uint8)


def table_cells(texts: Sequence[str], indices: NDArray[np.integer]) -> Cells:
    """texts[i] for each index."""
    found: Cells = text_cells(texts)[indices]
    return found


def counted_cells(first: int, count: int) -> Cells:
    """The numbers first, first + 1, …"""
    digits = len(str(first + count))
    return np.arange(first, first + count).astype(f"S{digits}")[:, None].view(np.uint8)


def joined(cells: Sequence[Cells | bytes], count: int) -> bytes:
    """Cells side by side, each row behind the other; bytes stand in every row."""
    width = sum(len(cell) if isinstance(cell, bytes) else cell.shape[1] for cell in cells)
    buffer = bytearray(count * width)
    matrix = np.frombuffer(buffer, np.uint8).reshape(count, width)
    at = 0
    for cell in cells:
        size = len(cell) if isinstance(cell, bytes) else cell.shape[1]
        matrix[:, at : at + size] = np.frombuffer(cell, np.uint8) if isinstance(cell, bytes) else cell
        at += size
    return bytes(buffer.translate(None, b"\0"))


def float_cells(values: NDArray[np.float32]) -> Cells:
    """One cell for each number of [N]."""
    values = np.asarray(values, np.float32)
    cells = np.zeros((len(values), _WIDTH), np.uint8)
    usual = (values > 0) & (values < 1)
    if usual.all():
        _write(cells, values)
        return cells
    if usual.any():
        some = cells[usual]
        _write(some, values[usual])
        cells[usual] = some
    others = np.flatnonzero(~usual)
    if len(others):
        found, places = np.unique(values[others], return_inverse=True)
        texts = text_cells(["0" if value == 0 else str(value).removesuffix(".0") for value in found])
        if texts.shape[1] > cells.shape[1]:
            cells = np.pad(cells, ((0, 0), (0, texts.shape[1] - cells.shape[1])))
        cells[others, : texts.shape[1]] = texts[places]
    return cells


def _write(cells: Cells, values: NDArray[np.float32]) -> None:
    """Numbers between 0 and 1."""
    wide = values.astype(np.float64)
    exponent = np.floor(np.log10(wide)).astype(np.int64)
    mantissa = _mantissa(wide, values, exponent, 7)
    # Rounding up, or a logarithm that is off by one, may give one digit more or less.
    for wrong, factor, step in ((mantissa >= 10**_DIGITS, 0.1, 1), (mantissa < 10 ** (_DIGITS - 1), 10, -1)):
        if wrong.any():
            mantissa[wrong] = np.rint(mantissa[wrong] * factor).astype(np.int64)
            exponent[wrong] += step
    digit = _digits(mantissa)
    fixed = exponent >= _FIXED
    if fixed.all():
        _fixed(cells, digit, exponent)
        return
    for chosen, write in ((np.flatnonzero(fixed), _fixed), (np.flatnonzero(~fixed), _scientific)):
        some = np.zeros((len(chosen), _WIDTH), np.uint8)
        write(some, digit[chosen], exponent[chosen])
        cells[chosen] = some


def _mantissa(
    wide: NDArray[np.float64], values: NDArray[np.float32], exponent: NDArray[np.int64], digits: int
) -> NDArray[np.int64]:
    """Nine digits, of which the first `digits`, or one or two more where they must, are not zero."""
    scale = _POWERS[digits - 1 - exponent]
    whole = np.rint(wide * scale)
    mantissa: NDArray[np.int64] = whole.astype(np.int64) * 10 ** (_DIGITS - digits)
    if digits < _DIGITS:
        other = np.flatnonzero((whole / scale).astype(np.float32) != values)
        mantissa[other] = _mantissa(wide[other], values[other], exponent[other], digits + 1)
    return mantissa


def _digits(mantissa: NDArray[np.int64]) -> Cells:
    """[N, 12]: the nine digits of each, zeros at the end left out, in three groups with a zero byte behind each."""
    thousand = np.uint32(1000)
    above = (whole := mantissa.astype(np.uint32)) // thousand  # numpy divides by // much faster than by divmod
    first = above // thousand
    last, middle = whole - above * thousand, above - first * thousand
    groups = np.empty((len(mantissa), 3), np.uint32)
    groups[:, 2] = _CUT[last]
    groups[:, 1] = np.where(last == 0, _CUT[middle], _WHOLE[middle])
    groups[:, 0] = np.where((last == 0) & (middle == 0), _CUT[first], _WHOLE[first])
    return groups.view(np.uint8)


def _fixed(cells: Cells, digit: Cells, exponent: NDArray[np.int64]) -> None:
    cells[:, :8] = _HEADS[-1 - exponent][:, None].view(np.uint8)
    cells[:, _HEAD:] = digit


def _scientific(cells: Cells, digit: Cells, exponent: NDArray[np.int64]) -> None:
    cells[:, 0] = digit[:, 0]
    cells[:, 1] = np.where(digit[:, 1] != 0, _POINT, 0)
    cells[:, 2:13] = digit[:, 1:]
    cells[:, 13], cells[:, 14] = _E, _MINUS
    cells[:, 15] = -exponent // 10 + _ZERO
    cells[:, 16] = -exponent % 10 + _ZERO
