"""Which pictures a report has, drawn for light and dark; the light ones lie in the run folder, too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import evaluate, plots, plots_honesty
from training.calibrate import Reliability
from training.run import Result

TITLES = {
    "loss": "Loss by epoch",
    "accuracy": "Accuracy by epoch",
    "confusion": "Confusion matrix",
    "reliability": "Reliability diagram",
    "strangeness": "Scores of usual and of strange inputs",
    "weights": "Weights of the first layer",
}
_FILES = {
    "loss": "curve_loss.png",
    "accuracy": "curve_accuracy.png",
    "confusion": "confusion_matrix.png",
    "reliability": "reliability.png",
    "strangeness": "strangeness.png",
    "weights": "first_layer.png",
}


def draw(folder: Path, result: Result, worst: int) -> dict[str, tuple[bytes, bytes]]:
    """The PNGs by name, light and dark, of all that there is to show; `worst` mistakes go into mistakes.png."""
    found = {name: (picture(plots.LIGHT), picture(plots.DARK)) for name, picture in _pictures(result).items()}
    for name, (light, _) in found.items():
        (folder / _FILES[name]).write_bytes(light)
    if not result.dataset.is_table and result.assessment.test["errors"]:
        (folder / "mistakes.png").write_bytes(_mistakes(result, worst))
    return found


def _pictures(result: Result) -> dict[str, Callable[[plots.Theme], bytes]]:
    kept = int(np.argmin(result.history["val_loss"])) + 1
    matrix, names = np.array(result.assessment.test["confusion"]), result.dataset.labels
    before = result.assessment.calibration.get("reliability_before") if result.assessment.temperature != 1 else None
    after = Reliability.of_json(result.assessment.test["reliability"])
    pictures: dict[str, Callable[[plots.Theme], bytes]] = {
        "loss": lambda theme: plots.curve(result.history, "loss", kept, theme),
        "accuracy": lambda theme: plots.curve(result.history, "accuracy", kept, theme),
        "confusion": lambda theme: plots.confusion(matrix, names, theme),
        "reliability": lambda theme: plots_honesty.reliability(before and Reliability.of_json(before), after, theme),
    }
    scores = dict(result.assessment.scores)
    if scores:
        usual = scores.pop("test")
        strange = np.concatenate(list(scores.values()))
        pictures["strangeness"] = lambda theme: plots_honesty.strangeness(usual, strange, theme)
    kernels = _first_kernels(result)
    if kernels is not None:
        pictures["weights"] = lambda theme: plots_honesty.kernels(kernels, theme)
    return pictures


def _first_kernels(result: Result) -> NDArray[np.float64] | None:
    """The first layer's weights as pictures [K,H,W]; None for tables, and for weights that are no pictures."""
    layers = [layer for layer in result.model.layers if getattr(layer, "kernel", None) is not None]
    if result.dataset.is_table or not layers:
        return None
    return plots_honesty.kernels_of(np.asarray(layers[0].kernel, dtype=np.float64), result.dataset.row_shape)


def _mistakes(result: Result, worst: int) -> bytes:
    rows = evaluate.worst_mistakes(result.assessment.answers, result.dataset.test.labels, worst)
    names = result.dataset.labels
    cases = [(names[true], names[said], sure) for _, true, said, sure in rows]
    return plots.mistakes(result.dataset.test.inputs[[row for row, *_ in rows]], cases, plots.LIGHT)
