"""Which score tells strange pictures from the data a network was trained on: `python -m training.ood_compare RUN…`.

For each run, a table: each method's AUROC on each kind of strange pictures, and the share it refuses when 95 % of the
validation part is accepted. Nothing is fitted to strange pictures. docs/decisions/0019 quotes it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import arguments, data, features, fit, ood, strange
from training.compare import guarded, read
from training.errors import DataError

Floats = NDArray[np.float64]
Score = Callable[[Floats, Floats], Floats]
"""From features [N,F] and logits [N,C] to scores [N], larger for stranger rows."""

ROWS = 1000  # of each kind
NEIGHBOURS, PROTOTYPES = 5, 2000
_SEED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each run; the exit status."""
    flags = arguments.Parser(prog="python -m training.ood_compare", description=__doc__.split("\n")[0])
    flags.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder of a network for pictures")
    flags.add_argument("--data-dir", type=Path, metavar="DIR", help="where the run's data lie, and cifar10.npz if any")
    options = flags.parse_args(argv)
    return guarded(lambda: _all(options))


def _all(options: argparse.Namespace) -> None:
    for run in options.runs:
        metrics = read(run)
        dataset = data.load(metrics["data"]["name"], options.data_dir)
        if dataset.is_table or dataset.sha256 != metrics["data"]["sha256"]:
            raise DataError(f"{run} was not trained on the pictures of {dataset.name} that are here")
        fit.repeatable(0)
        import keras

        model = keras.saving.load_model(run / "model.keras")
        kinds = _kinds(dataset, options.data_dir)
        print(
            f"{metrics['model']}, {metrics['metrics']['test']['accuracy']:.2%} on test; AUROC / refused, in percent\n"
        )
        print(table(compare(model, dataset, kinds), kinds), flush=True)


def compare(
    model: Any, dataset: data.Dataset, kinds: Mapping[str, strange.Pictures]
) -> dict[str, dict[str, tuple[float, float]]]:
    """By method, then by kind, then (AUROC, share refused); "test" is (nan, share of the test part refused)."""
    found = features.find(model)
    if isinstance(found, str):
        raise DataError(f"there are no features to compare: {found}")
    weights, bias = (np.asarray(each, dtype=np.float64) for each in _last_dense(model).get_weights())

    def both(inputs: strange.Pictures) -> tuple[Floats, Floats]:
        deep = np.asarray(found.last.predict(inputs, batch_size=1024, verbose=0), dtype=np.float64)
        return found.of(inputs), deep @ weights + bias

    train, validation, test = (both(part.inputs) for part in (dataset.train, dataset.validation, dataset.test))
    others = {kind: both(inputs) for kind, inputs in kinds.items()}
    answers: dict[str, dict[str, tuple[float, float]]] = {}
    for name, score in methods(train[0], dataset.train.labels).items():
        limit = np.quantile(score(*validation), ood.ACCEPTED)
        usual = score(*test)
        answers[name] = {"test": (np.nan, float(np.mean(usual > limit)))}
        for kind, rows in others.items():
            values = score(*rows)
            answers[name][kind] = ood.auroc(usual, values), float(np.mean(values > limit))
    return answers


def methods(train: Floats, labels: NDArray[np.int64]) -> dict[str, Score]:
    """The scores that were compared, fitted to the training part's features [N,F] of labels [N]."""
    chosen = np.random.RandomState(_SEED).permutation(len(train))[:PROTOTYPES]
    plain, unit = train[chosen], ood.unit(train[chosen])
    common = train.mean(axis=0)
    spread = _whitening(train - common)
    near, near_unit = _mahalanobis(train, labels), _mahalanobis(ood.unit(train), labels)
    return {
        "max-softmax": lambda _, z: -np.exp(z.max(axis=1) - _log_sum(z)),
        "energy": lambda _, z: -_log_sum(z),
        "k-NN": lambda f, _: _neighbour(f, plain),
        "k-NN, length 1": lambda f, _: _neighbour(ood.unit(f), unit),
        "relative Mahalanobis": lambda f, _: near(f) - (((f - common) @ spread) ** 2).sum(axis=1),
        "Mahalanobis": lambda f, _: near(f),
        "Mahalanobis, length 1": lambda f, _: near_unit(ood.unit(f)),
    }


def table(answers: Mapping[str, Mapping[str, tuple[float, float]]], kinds: Sequence[str] | Mapping[str, Any]) -> str:
    """The same as a table of Markdown, a line for each kind."""
    names = list(answers)
    lines = ["| |" + "|".join(names) + "|", "|---|" + "---|" * len(names)]
    for kind in ("test", *kinds):
        cells = []
        for name in names:
            area, refused = answers[name][kind]
            cells.append(f"{refused:.1%}" if kind == "test" else f"{area * 100:.2f} / {refused * 100:.1f}")
        lines.append(f"|{kind}|" + "|".join(cells) + "|")
    return "\n".join(lines) + "\n"


def _kinds(dataset: data.Dataset, folder: Path | None) -> dict[str, strange.Pictures]:
    """Every kind of strange pictures there is; grey CIFAR-10, cut to the size, where it lies in the folder."""
    random = np.random.RandomState(_SEED)
    usual = dataset.test.inputs[random.permutation(len(dataset.test))[:ROWS]]
    made = {**strange.KNOWN, **strange.SEEN, **strange.HELD_OUT}
    kinds = {kind: make(usual, random) for kind, make in made.items()}
    height, width = dataset.row_shape[:2]
    if folder and (folder / "cifar10.npz").exists() and usual.ndim == 3 and max(height, width) <= 32:
        colour = data.load("cifar10", folder).test.inputs[:ROWS]
        grey = np.rint(colour @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        top, left = (32 - height) // 2, (32 - width) // 2
        kinds["grey CIFAR-10"] = np.ascontiguousarray(grey[:, top : top + height, left : left + width])
    return kinds


def _last_dense(model: Any) -> Any:
    return next(layer for layer in reversed(model.layers) if layer.get_weights())


def _log_sum(logits: Floats) -> Floats:
    most = logits.max(axis=1)
    total: Floats = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
    return total


def _neighbour(rows: Floats, prototypes: Floats) -> Floats:
    """The squared distance to the NEIGHBOURS-th nearest prototype."""
    square = (rows**2).sum(axis=1)[:, None] - 2 * rows @ prototypes.T + (prototypes**2).sum(axis=1)
    nearest: Floats = np.partition(square, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
    return nearest


def _mahalanobis(train: Floats, labels: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    present, place = np.unique(labels, return_inverse=True)
    centers = np.stack([train[place == number].mean(axis=0) for number in range(len(present))])
    whiten = _whitening(train - centers[place])

    def score(rows: Floats) -> Floats:
        each = [(((rows - center) @ whiten) ** 2).sum(axis=1) for center in centers]
        return np.asarray(np.min(each, axis=0))

    return score


def _whitening(rows: Floats) -> Floats:
    covariance = rows.T @ rows / len(rows)
    covariance += ood.SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return np.asarray(np.linalg.cholesky(np.linalg.inv(covariance)))


if __name__ == "__main__":
    sys.exit(main())
