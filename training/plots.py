"""The pictures of the report, each drawn for light and for dark surroundings."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

NUMBERED_CLASSES = 20  # above, the counts would not be readable
SHORT = 14  # characters of a class name in a plot


@dataclass(frozen=True)
class Theme:
    """The colours of one surrounding: the page's paper, its ink, and one accent for what matters."""

    paper: str
    ink: str
    muted: str
    grid: str
    accent: str
    wrong: str


LIGHT = Theme(paper="#ffffff", ink="#1c2024", muted="#80868f", grid="#e6e8eb", accent="#0b68cb", wrong="#d9480f")
DARK = Theme(paper="#181b20", ink="#e8eaed", muted="#8d949e", grid="#2b3038", accent="#6cb2ff", wrong="#ff8a4c")


def curve(history: Mapping[str, Sequence[float]], what: str, kept: int, theme: Theme) -> bytes:
    """`loss` or `accuracy` by epoch, training against validation, with the epoch whose weights were kept; a PNG."""
    figure, axes = figure_of(theme, 5.2, 3.6)
    train, validation = history[what], history[f"val_{what}"]
    epochs = range(1, len(train) + 1)
    dot = "o" if len(train) < 3 else ""  # a line through one point cannot be seen
    axes.plot(epochs, train, color=theme.muted, linewidth=1.8, label="training", marker=dot)
    axes.plot(epochs, validation, color=theme.accent, linewidth=2.2, label="validation", marker=dot)
    axes.plot(kept, validation[kept - 1], "o", color=theme.accent, markersize=9, markeredgecolor=theme.paper, zorder=4)
    value = f"{validation[kept - 1]:.2%}" if what == "accuracy" else f"{validation[kept - 1]:.3f}"
    axes.set_title(f"{what.capitalize()}: {value} at epoch {kept}, which was kept", loc="left", color=theme.ink, pad=12)
    axes.set_xlabel("epoch", color=theme.muted)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=theme.grid, linewidth=1)
    if what == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    elif min(*train, *validation) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, labelcolor=theme.ink, loc="best")
    return png_of(figure)


def confusion(matrix: NDArray[np.int64], names: Sequence[str], theme: Theme) -> bytes:
    """True classes down, said classes across; right ones in the accent, mistakes in their own colour; a PNG."""
    count = len(names)
    side = min(9.0, max(4.2, 2.2 + 0.31 * count))
    figure, axes = figure_of(theme, side, side)
    axes.imshow(_confusion_colours(matrix, theme), interpolation="nearest")
    if count <= NUMBERED_CLASSES:
        _write_counts(axes, matrix, theme)
        short = [_short(name) for name in names]
        axes.set_xticks(
            range(count),
            short,
            rotation=45 if max(map(len, short)) > 3 else 0,
            ha="right" if max(map(len, short)) > 3 else "center",
        )
        axes.set_yticks(range(count), short)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=theme.paper, linewidth=2)
    axes.tick_params(which="both", length=0, colors=theme.ink)
    axes.set_xlabel("said", color=theme.muted)
    axes.set_ylabel("true", color=theme.muted)
    wrong = int(matrix.sum() - np.trace(matrix))
    title = f"{wrong:,} of {int(matrix.sum()):,} wrong"
    axes.set_title(title, loc="left", color=theme.ink, pad=12)
    return png_of(figure)


def mistakes(pictures: NDArray[np.uint8], cases: Sequence[tuple[str, str, float]], theme: Theme) -> bytes:
    """The pictures [K,H,W] or [K,H,W,3] in a grid, each with (true class, class said, how sure); a PNG."""
    columns = min(6, max(3, len(cases)))
    rows = max(1, -(-len(cases) // columns))
    figure, _ = figure_of(theme, 1.45 * columns, 1.8 * rows, axes=False)
    for place, (pixels, (true, said, sure)) in enumerate(zip(pictures, cases, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"said {_short(said)}, {sure:.0%}\nis {_short(true)}", fontsize=9, color=theme.ink, pad=5)
        axes.set_axis_off()
    return png_of(figure)


def picture(pixels: NDArray[np.uint8]) -> bytes:
    """One picture [H,W] or [H,W,3] as it is; a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def figure_of(theme: Theme, width: float, height: float, axes: bool = True) -> tuple[Figure, Axes]:
    """A figure of so many inches in the colours of the theme, and its one plot, if it is to have `axes`."""
    # Figure and canvas by hand, not pyplot: no global state, no window, nothing to close.
    figure = Figure(
        figsize=(width, height), dpi=160, facecolor=theme.paper, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    )
    FigureCanvasAgg(figure)
    if not axes:
        return figure, Axes(figure, (0, 0, 1, 1))
    plane = figure.add_subplot()
    plane.set_facecolor(theme.paper)
    plane.tick_params(which="both", colors=theme.muted, length=0, labelsize=10)
    for spine in plane.spines.values():
        spine.set_visible(False)
    return figure, plane


def _confusion_colours(matrix: NDArray[np.int64], theme: Theme) -> NDArray[np.float64]:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)
    strength = np.where(right, 0.25 + 0.6 * share, 0.0)
    off = np.where(right, 0.0, share)
    # The square root lets a single mistake be seen beside a class that often goes wrong.
    strength = np.where((off > 0) & ~right, 0.2 + 0.8 * np.sqrt(off / max(off.max(), 0.05)), strength)[..., None]
    hue = np.where(right[..., None], to_rgb(theme.accent), to_rgb(theme.wrong))
    empty = np.array(to_rgb(theme.grid)) * 0.5 + np.array(to_rgb(theme.paper)) * 0.5
    return np.asarray(strength * hue + (1 - strength) * empty)


def _write_counts(axes: Axes, matrix: NDArray[np.int64], theme: Theme) -> None:
    colours = _confusion_colours(matrix, theme)
    size = 10 if matrix.max() < 1000 and len(matrix) <= 12 else 8
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            light = float(colours[row, column] @ (0.299, 0.587, 0.114)) > 0.55
            axes.text(
                column,
                row,
                f"{count}",
                ha="center",
                va="center",
                fontsize=size,
                color="#111418" if light else "#ffffff",
            )


def _short(name: str) -> str:
    # matplotlib takes what stands between two dollars for a formula
    return (name if len(name) <= SHORT else name[: SHORT - 1] + "…").replace("$", r"\$")


def png_of(figure: Figure) -> bytes:
    """The bytes of its picture."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class name in letters that the font lacks
        figure.savefig(file, format="png")
    return file.getvalue()
