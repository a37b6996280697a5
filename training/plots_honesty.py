"""Three more pictures of the report: how sure against how right, how strange, and what the first layer looks for."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from training.calibrate import BINS, Reliability
from training.plots import Theme, figure_of, png_of

MOST_KERNELS = 32
_BEST_SCORE = 1e-3  # of the plot; under it nothing is told apart


def reliability(before: Reliability | None, after: Reliability, theme: Theme) -> bytes:
    """How often right against how sure; the diagonal is honest. Dots grow with the rows that they stand for; a PNG."""
    figure, axes = figure_of(theme, 5.2, 4.4)
    axes.plot((0, 1), (0, 1), color=theme.grid, linewidth=2, zorder=1)
    if before is not None:
        _dots(axes, before, theme.muted, f"before calibration: {before.ece:.2%} off")
    _dots(axes, after, theme.accent, f"{'after' if before is not None else 'as it is'}: {after.ece:.2%} off")
    axes.set_title("How sure it is, and how often right", loc="left", color=theme.ink, pad=12)
    axes.set_xlabel("sure", color=theme.muted)
    axes.set_ylabel("right", color=theme.muted)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.set_xlim(-0.03, 1.05)
    axes.set_ylim(-0.03, 1.05)
    axes.legend(frameon=False, labelcolor=theme.ink, loc="upper left", handletextpad=0.4)
    return png_of(figure)


def _dots(axes: Axes, found: Reliability, colour: str, label: str) -> None:
    used = found.rows > 0
    sizes = 18 + 130 * np.sqrt(found.rows[used] / found.rows.max())
    axes.plot(found.sure[used], found.right[used], color=colour, linewidth=1.2, zorder=2)
    axes.scatter(found.sure[used], found.right[used], s=sizes, color=colour, alpha=0.85, zorder=3, linewidths=0)
    axes.plot([], [], "o", color=colour, label=label)


def strangeness(usual: NDArray[np.float64], strange: NDArray[np.float64], theme: Theme) -> bytes:
    """The scores of the test part and of strange inputs, on a logarithmic axis, with the threshold at 1; a PNG."""
    figure, axes = figure_of(theme, 5.2, 3.6)
    # A score that is no number, or infinite, is as strange as can be.
    known = [np.nan_to_num(np.maximum(each, _BEST_SCORE), nan=1e9, posinf=1e9) for each in (usual, strange)]
    ends = [min(each.min() for each in known), max(each.max() for each in known)]
    edges = np.geomspace(ends[0] / 1.1, ends[1] * 1.1, 4 * BINS)
    for values, colour, label in zip(known, (theme.accent, theme.wrong), ("test part", "strange inputs"), strict=True):
        share = np.full(len(values), 1 / len(values))
        axes.hist(values, edges.tolist(), weights=share, color=colour, alpha=0.75, label=label)
    axes.axvline(1, color=theme.ink, linewidth=1.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(NullLocator())
    axes.set_xlabel("score; over 1 is called out of distribution", color=theme.muted)
    refused = float(np.mean(~(strange <= 1)))
    axes.set_title(f"{np.mean(usual <= 1):.1%} accepted, {refused:.1%} refused", loc="left", color=theme.ink, pad=12)
    axes.legend(frameon=False, labelcolor=theme.ink, loc="best")
    return png_of(figure)


def kernels(weights: NDArray[np.float64], theme: Theme) -> bytes:
    """The first layer's weights [K,H,W], each as a picture: one colour for, the other against, paper for nothing."""
    shown = weights[:MOST_KERNELS]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure, _ = figure_of(theme, 0.95 * columns, 0.95 * rows, axes=False)
    paper, for_it, against = (np.array([int(tone[at : at + 2], 16) / 255 for at in (1, 3, 5)])
                              for tone in (theme.paper, theme.accent, theme.wrong))  # fmt: skip
    for place, kernel in enumerate(shown, start=1):
        strength = (kernel / max(float(np.abs(kernel).max()), 1e-12))[..., None]
        colours = np.where(strength > 0, for_it, against) * np.abs(strength) + paper * (1 - np.abs(strength))
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(np.clip(colours, 0, 1), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(theme.grid)
    return png_of(figure)


def kernels_of(layer_weights: NDArray[np.float64], row_shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Kernels [h,w,in,out] or Dense weights [in,out] on pictures of that shape, as [out,H,W]; None where they are none.

    Colours are averaged.
    """
    if layer_weights.ndim == 4:
        return np.asarray(layer_weights.mean(axis=2).transpose(2, 0, 1))
    if layer_weights.ndim == 2 and len(row_shape) >= 2 and layer_weights.shape[0] == int(np.prod(row_shape)):
        planes = layer_weights.T.reshape(layer_weights.shape[1], row_shape[0], row_shape[1], -1)
        return np.asarray(planes.mean(axis=3))
    return None
