"""The flags that every training script takes, and what they mean where they are not given."""

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from training import data
from training.errors import UsageError

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Defaults:
    """What a script was measured with on one dataset; `target` is the test accuracy it must reach, if any."""

    epochs: int
    batch_size: int
    target: float | None = None


class Parser(argparse.ArgumentParser):
    """argparse with one line per mistake, instead of the usage and then the mistake."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parser(recipe: str, description: str, learning_rate: float, dropout: float) -> Parser:
    """The shared flags; a script adds its own and hands the parser to `parse`."""
    flags = Parser(prog=f"python -m {recipe}", description=description, allow_abbrev=False)
    known = "|".join(data.NAMED)
    flags.add_argument("--data", default="digits", help=f"{known}, or the path of your .npz (default: digits)")
    flags.add_argument(
        "--data-dir",
        type=_folder,
        metavar="DIR",
        default=os.environ.get("TOPCLASS_DATA") or None,
        help="folder where mnist.npz and the like lie; else Keras downloads (default: $TOPCLASS_DATA)",
    )
    flags.add_argument("--name", help="the model's name (default: the data and the recipe, as in digits-mlp)")
    flags.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs go (default: runs)")
    flags.add_argument("--epochs", type=count, metavar="N", help="passes over the training part (default: by the data)")
    flags.add_argument("--batch-size", type=count, metavar="N", help="rows per step (default: by the data)")
    flags.add_argument(
        "--learning-rate",
        type=_positive,
        default=learning_rate,
        metavar="X",
        help=f"Adam's rate at the start; falls to 0 along a cosine (default: {learning_rate})",
    )
    flags.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights, order and dropout (default: 0)")
    flags.add_argument(
        "--dropout", type=_share, default=dropout, metavar="X", help=f"share dropped, 0 to <1 (default: {dropout})"
    )
    flags.add_argument(
        "--patience", type=count, default=5, metavar="N", help="stop after N epochs without a better one (default: 5)"
    )
    flags.add_argument("--limit", type=count, metavar="N", help="use only the first N training rows, for a quick try")
    flags.add_argument(
        "--target",
        type=_accuracy,
        metavar="X",
        help="test accuracy under which to exit with 1 (default: what the recipe is known to reach, if known)",
    )
    return flags


def parse(
    flags: Parser, recipe: str, measured: Mapping[str, Defaults], argv: Sequence[str] | None
) -> argparse.Namespace:
    """Read the command line, and settle what was not given by the dataset's name; `measured` has the key ""."""
    arguments = flags.parse_args(argv)
    try:
        dataset = data.name_of(arguments.data)
        arguments.name = _model_name(arguments.name, f"{dataset}-{recipe.rpartition('.')[2]}")
    except UsageError as error:
        flags.error(str(error))
    defaults = measured.get(arguments.data, measured[""])
    # A known result belongs to the whole recipe: a quick try on few rows or epochs must not fail for missing it.
    if arguments.target is None and arguments.limit is None and arguments.epochs is None:
        arguments.target = defaults.target
    arguments.epochs = arguments.epochs or defaults.epochs
    arguments.batch_size = arguments.batch_size or defaults.batch_size
    return arguments


def as_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every argument with its settled value, ready for JSON."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}


def command(recipe: str, arguments: Mapping[str, Any]) -> str:
    """The command line that repeats a run with these arguments."""
    words = ["python", "-m", recipe]
    for key, value in arguments.items():
        if value is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _model_name(given: str | None, fallback: str) -> str:
    name = fallback if given is None else given
    if MODEL_NAME.fullmatch(name):
        return name
    origin = "--name" if given is not None else "from --data; give a --name"
    raise UsageError(
        f"{name!r} ({origin}) is no model name: expected letters, digits, '.', '_', '-', not beginning with a sign"
    )


# ------------------------------------------------------------------------------------------------------ kinds of value


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return path


def _number(text: str, kind: type[int] | type[float], good: str, low: float, high: float) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {good}")
    return value


def count(text: str) -> int:
    """A flag that counts something: 1 or more."""
    return int(_number(text, int, "a whole number of at least 1", 1, 2**31 - 1))


def _seed(text: str) -> int:
    return int(_number(text, int, "a whole number from 0 to 4294967295", 0, 2**32 - 1))


def _positive(text: str) -> float:
    return float(_number(text, float, "a number greater than 0", 1e-300, 1e300))


def _share(text: str) -> float:
    return float(_number(text, float, "a number from 0 to less than 1", 0.0, 1.0 - 1e-9))


def _accuracy(text: str) -> float:
    return float(_number(text, float, "an accuracy from 0 to 1", 0.0, 1.0))
