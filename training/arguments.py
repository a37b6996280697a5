"""The command line of every training script: which flags it has, and what they mean where they are not given."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from training import data, knobs
from training.errors import UsageError
from training.recipe import Recipe

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
WIDTH = 80


class Parser(argparse.ArgumentParser):
    """argparse with one line per mistake, instead of the usage and then the mistake."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


class _OneLineEach(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=25, width=WIDTH)


def parser(recipe: Recipe) -> Parser:
    """The flags of one network, in groups; what is not given is not in the namespace."""
    flags = Parser(
        prog=f"python -m training {recipe.name}",
        usage="%(prog)s [flags]",
        description=recipe.summary,
        epilog="In brackets: the value without the flag.",
        allow_abbrev=False,
        formatter_class=_OneLineEach,
        argument_default=argparse.SUPPRESS,
    )
    shown = {**_general(), **recipe.defaults}
    varied = {key for settings in recipe.measured.values() for key in settings}
    present = {knob.group for knob in knobs.KNOBS if recipe.offers(knob)}
    groups = {name: flags.add_argument_group(words) for name, words in knobs.GROUPS.items() if name in present}
    for knob in knobs.KNOBS:
        if not recipe.offers(knob):
            continue
        value = "by data" if knob.name in varied else shown[knob.name]
        words = knob.what if "(" in knob.what or value in (None, "") else f"{knob.what} ({value})"
        either: dict[str, Any] = {"nargs": "?", "const": "yes"} if knob.switch else {}
        groups[knob.group].add_argument(knob.flag, type=knob.kind, metavar=knob.metavar, help=words, **either)
    return flags


def parse(recipe: Recipe, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and settle what was not given by the recipe and the dataset's name."""
    flags = parser(recipe)
    given = vars(flags.parse_args(argv))
    try:
        return _settled(recipe, given)
    except UsageError as error:
        flags.error(str(error))


def _settled(recipe: Recipe, given: dict[str, Any]) -> argparse.Namespace:
    source = given.get("data", recipe.defaults.get("data", "digits"))
    if source is None:
        raise UsageError("give --data: a folder with two folders of pictures, one for each answer")
    own = recipe.settled(source)
    settled = {**_general(), **own, "data": source, **given}
    about = settled["net"] if source == "hand" else data.name_of(source)
    settled["name"] = _model_name(given.get("name"), f"{about}-{recipe.name}")
    if "data_dir" not in given and os.environ.get("TOPCLASS_DATA"):
        try:
            settled["data_dir"] = knobs.folder(os.environ["TOPCLASS_DATA"])
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"TOPCLASS_DATA: {error}") from None
    # A known result belongs to the whole recipe: a quick try on few rows or epochs must not fail for missing it.
    changed = [knob.name for knob in knobs.KNOBS if not knob.known and given.get(knob.name) is not None]
    if changed and "target" not in given:
        settled["target"] = None
    _settle_learning(settled, given, own)
    offered = tuple(knob.name for knob in knobs.KNOBS if recipe.offers(knob))
    return argparse.Namespace(**{knob.name: settled[knob.name] for knob in knobs.KNOBS}, offered=offered)


def _settle_learning(settled: dict[str, Any], given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    optimizer = settled["optimizer"]
    if settled["learning_rate"] is None or ("learning_rate" not in given and own.get("optimizer", "adam") != optimizer):
        settled["learning_rate"] = knobs.OPTIMIZERS[optimizer]
    if settled["loss"] is None:
        sigmoid = settled["output"] == "sigmoid"
        settled["loss"] = "binary_crossentropy" if sigmoid else "sparse_categorical_crossentropy"
    for flag, owner in (("momentum", "sgd"), ("weight_decay", "adamw")):
        if flag in given and optimizer != owner:
            raise UsageError(f"--{flag.replace('_', '-')} is a part of {owner}; give --optimizer {owner} with it")
        if optimizer != owner:
            settled[flag] = None
    if settled["warmup"] and settled["schedule"] != "cosine":
        raise UsageError(f"--warmup goes before a cosine; --schedule is {settled['schedule']}")
    if settled["warmup"] >= settled["epochs"] and settled["warmup"]:
        raise UsageError(f"--warmup {settled['warmup']} leaves no epoch of {settled['epochs']} to learn in")


def _general() -> dict[str, Any]:
    return {knob.name: knob.default for knob in knobs.KNOBS}


def as_json(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every argument that makes the model what it is, with its settled value, ready for JSON."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(arguments).items()
        if key in arguments.offered and key not in knobs.NOT_THE_RECIPE
    }


def command(recipe: str, arguments: Mapping[str, Any]) -> str:
    """The command line that repeats a run with these arguments; `recipe` is its id, such as training.mlp."""
    words = ["python", "-m", "training", recipe.removeprefix("training.")]
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
