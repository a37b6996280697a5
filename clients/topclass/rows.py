"""The predictions of a PredictResponse, read as arrays without a Python object for each row.

A message is its fields one after the other, so predictions with the same fields are a table of bytes, but for the
label, whose length may differ: what stands before it is one table, what stands behind it another. A `Form` says which
bytes are structure (tags, lengths, where numbers end) and where the values lie. Rows whose structure is that of a form
hold the same fields, whoever wrote them; all else is read, or refused, by the protobuf library.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topclass.forms import (
    OOD_SCORE,
    PROBABILITIES,
    PROBABILITY,
    ROW,
    STRANGE,
    TOP_CLASS,
    Form,
    Ints,
    Table,
    Unusual,
    length,
)

_FEW, _FEW_UNEQUAL = 20, 64  # rows, of equal length or not, below which the library is faster
_MOST_FORMS = 16  # different kinds of rows in one answer; what has more is no table
_MOST_CLASSES = 1 << 16  # up to this number a table over all classes is cheaper than sorting
_LONGEST_LABEL = 1 << 10  # bytes; longer ones are not worth a table
_KEPT = 256  # forms that are remembered


@dataclass(slots=True)
class Rows:
    """What the predictions say, one entry for each; the fields are those of results.Result."""

    top_class: Ints
    top_label: tuple[str, ...]
    probability: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    ood_score: NDArray[np.float32] | None
    out_of_distribution: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one form."""

    form: Form
    before: Table
    behind: Table
    labels: tuple[str, ...]

    def read(self) -> Rows:
        """Their values, copied out of the message."""
        count, scored = self.before.count, self._floats(OOD_SCORE, None)
        probability, strange = self._floats(PROBABILITY, None), self._number(STRANGE)
        matrix = self._floats(PROBABILITIES, self.form.classes) if self.form.classes else None
        return Rows(
            top_class=_top_class(self.form, self.before, self.behind),
            top_label=self.labels,
            probability=np.zeros(count, np.float32) if probability is None else probability,
            probabilities=np.zeros((count, 0), np.float32) if matrix is None else matrix,
            ood_score=scored,
            out_of_distribution=np.zeros(count, np.bool_) if strange is None else strange != 0,
        )

    def _floats(self, tag: int, width: int | None) -> NDArray[np.float32] | None:
        for part, table in ((self.form.before, self.before), (self.form.behind, self.behind)):
            if tag in part.values:
                return table.column(part.values[tag][0], "<f4", width).astype(np.float32)
        return None

    def _number(self, tag: int) -> Ints | None:
        return _number(self.form, self.before, self.behind, tag)


_forms: dict[int, Form] = {}  # the last one seen where the first row had this length


def read(message: bytes) -> tuple[Rows, int]:
    """The predictions that a PredictResponse begins with, and where they end. Unusual: the library must read it."""
    if not message or message[0] != ROW:
        raise Unusual
    size, head = length(message, 1)
    stride = head + size
    if len(message) < _FEW * stride:
        raise Unusual
    count = _same_head(message, stride, head)
    end = count * stride
    if count < _FEW and len(message) < _FEW_UNEQUAL * stride:
        raise Unusual
    if message[end : end + 1] == b"\x0a":
        return _read_unequal(message)
    form = _forms.get(stride) or _learn(stride, message[:stride])
    for _ in range(2):
        if found := _group(form, message, stride, count):
            return found.read(), end
        form = _learn(stride, message[:stride])
    return _read_unequal(message)


def _learn(stride: int, row: bytes) -> Form:
    if len(_forms) >= _KEPT:
        _forms.clear()
    _forms[stride] = form = Form.of(row)
    return form


def _group(form: Form, message: bytes, stride: int, count: int) -> Group | None:
    """Rows of equal length as a group, if all of them have this form, and labels of equal length."""
    before = Table(message, stride, count)
    gap = stride - form.before.width - form.behind.width
    if gap < 0 or not form.before.fits(before).all():
        return None
    behind = Table(message, stride, count, stride - form.behind.width)
    if form.behind.width and not form.behind.fits(behind).all():
        return None
    if form.label is None:
        return Group(form, before, behind, ("",) * count) if gap == 0 else None
    if not (before.number(*form.label) == gap).all():
        return None
    cells = before.column(form.before.width, "u1", gap)
    return Group(form, before, behind, _labels(cells, None, _top_class(form, before, behind)))


def _read_unequal(message: bytes) -> tuple[Rows, int]:
    """The same for rows of different lengths: other labels, numbers that are 0 and therefore not written."""
    starts, end = _walk(message)
    if len(starts) < _FEW_UNEQUAL:
        raise Unusual
    stops = np.append(starts[1:], end)
    left = np.arange(len(starts))
    groups: list[tuple[Ints, Rows]] = []
    while len(left):
        form = Form.of(message[starts[left[0]] : stops[left[0]]])
        chosen, group = _chosen(form, message, starts[left], stops[left])
        if not chosen[0] or len(groups) == _MOST_FORMS:
            raise Unusual
        groups.append((left[chosen], group.read()))
        left = left[~chosen]
    return (groups[0][1] if len(groups) == 1 else _merged(groups, len(starts))), end


def _chosen(form: Form, message: bytes, starts: Ints, stops: Ints) -> tuple[NDArray[np.bool_], Group]:
    """Which of these rows have this form, and they as a group."""
    width, rest = form.before.width, form.behind.width
    chosen = stops - starts >= width + rest
    before = _gathered(message, starts, width, chosen)
    fits = form.before.fits(before).all(axis=1)
    lengths = before.number(*form.label) if form.label else np.zeros(before.count, np.int64)
    fits &= lengths == (stops - starts)[chosen] - width - rest
    chosen[chosen] = fits
    behind = _gathered(message, stops - rest, rest, chosen)
    fits = form.behind.fits(behind).all(axis=1)
    chosen[chosen] = fits
    if not chosen.any():
        raise Unusual
    before, behind = _gathered(message, starts, width, chosen), _gathered(message, stops - rest, rest, chosen)
    if not form.label:
        return chosen, Group(form, before, behind, ("",) * before.count)
    lengths = before.number(*form.label)
    longest = int(lengths.max())
    if longest > _LONGEST_LABEL:
        raise Unusual
    # The bytes before the end of each label, so that no window reaches past the message.
    ends = starts[chosen] + width + lengths
    padded = bytes(longest) + message  # a label at the very beginning has less than that before it
    cells = np.ndarray((len(message) + 1, longest), np.uint8, padded, strides=(1, 1))[ends]
    return chosen, Group(form, before, behind, _labels(cells, lengths, _top_class(form, before, behind)))


def _gathered(message: bytes, starts: Ints, width: int, chosen: NDArray[np.bool_]) -> Table:
    """A copy of `width` bytes from each of these starts."""
    windows: NDArray[np.uint8] = np.ndarray((len(message) - width + 1, width), np.uint8, message, strides=(1, 1))
    table = windows[starts[chosen]]
    return Table(table, width, len(table))


def _merged(groups: list[tuple[Ints, Rows]], count: int) -> Rows:
    first = groups[0][1]
    rows = Rows(
        top_class=np.empty(count, np.int64),
        top_label=(),
        probability=np.empty(count, np.float32),
        probabilities=np.empty((count, first.probabilities.shape[1]), np.float32),
        ood_score=None if first.ood_score is None else np.empty(count, np.float32),
        out_of_distribution=np.empty(count, np.bool_),
    )
    labels = np.empty(count, object)
    for where, part in groups:
        if part.probabilities.shape[1] != rows.probabilities.shape[1] or (part.ood_score is None) != (
            rows.ood_score is None
        ):
            raise Unusual
        rows.top_class[where], rows.probability[where] = part.top_class, part.probability
        rows.probabilities[where], rows.out_of_distribution[where] = part.probabilities, part.out_of_distribution
        if rows.ood_score is not None:
            rows.ood_score[where] = part.ood_score
        labels[where] = part.top_label
    rows.top_label = tuple(labels.tolist())
    return rows


def _top_class(form: Form, before: Table, behind: Table) -> Ints:
    classes = _number(form, before, behind, TOP_CLASS)
    return np.zeros(before.count, np.int64) if classes is None else classes


def _number(form: Form, before: Table, behind: Table, tag: int) -> Ints | None:
    for part, table in ((form.before, before), (form.behind, behind)):
        if tag in part.values:
            return table.number(*part.values[tag])
    return None


def _labels(cells: NDArray[np.uint8], lengths: Ints | None, classes: Ints) -> tuple[str, ...]:
    """The labels that fill these cells [n, w], or with `lengths` the end of each; decoded once for each class."""
    count, width = cells.shape
    if lengths is not None:
        cells = np.where(np.arange(width) >= width - lengths[:, None], cells, 0)
    number = classes
    if int(classes.max(initial=0)) >= _MOST_CLASSES:
        _, number = np.unique(classes, return_inverse=True)
    last = np.full(int(number.max(initial=0)) + 1, -1)  # the last row of each class
    last[number] = np.arange(count)
    like = last[number]
    alike = (cells[like] == cells).all() and (lengths is None or (lengths[like] == lengths).all())

    def text(row: int) -> str:
        return cells[row, width - (width if lengths is None else int(lengths[row])) :].tobytes().decode()

    try:
        if not alike:  # labels that do not go with the class
            return tuple(text(row) for row in range(count))
        names = np.empty(len(last), object)
        for label in np.flatnonzero(last >= 0).tolist():
            names[label] = text(last[label])
    except UnicodeDecodeError:
        raise Unusual from None
    return tuple(names[number].tolist())


def _same_head(message: bytes, stride: int, head: int) -> int:
    """How many rows, from the first, have the tag and the length of the first."""
    table = Table(message, stride, len(message) // stride)
    if not table.count:
        return 0
    first = table.column(0, "<u2")
    same = first == first[0]
    for place in range(2, head):
        column = table.column(place, "u1")
        same &= column == column[0]
    return len(same) if same.all() else int(same.argmin())


def _walk(message: bytes) -> tuple[Ints, int]:
    """Where each row begins, and where the last one ends."""
    starts = []
    at, end = 0, len(message)
    while at < end and message[at] == ROW:
        starts.append(at)
        if at + 1 < end and message[at + 1] < 0x80:
            at += 2 + message[at + 1]
        else:
            size, start = length(message, at + 1)
            at = start + size
    if at > end:
        raise Unusual
    return np.array(starts, np.int64), at
