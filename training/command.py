"""The frame around every training script: talk on stderr, the run folder alone on stdout, one line for each fault."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data import Dataset
from training.errors import INTERRUPTED, TrainingError


@dataclass(frozen=True)
class Verdict:
    """How a finished run ends: its folder, whether it reached its target, its last sentence, its accuracy."""

    folder: Path
    reached: bool
    words: str
    accuracy: float


def say(text: str) -> None:
    """Talk to the person; never on stdout, which carries data."""
    print(text, file=sys.stderr, flush=True)


def introduce(dataset: Dataset) -> None:
    """Say what the network will learn from."""
    sizes = ", ".join(f"{count:,} {part}" for part, count in dataset.sizes.items())
    shape = "x".join(map(str, dataset.row_shape))
    kind = f"rows of {shape} numbers" if dataset.is_table else f"pictures of {shape}"
    say(f"data: {dataset.name}, {kind}, {len(dataset.labels)} classes; {sizes}")
    for note in dataset.notes:
        say(f"note: {note}")


def verdict(folder: Path, accuracy: float, target: float | None, what: str = "test accuracy") -> Verdict:
    """Hold the accuracy on the test part against the target; none is always reached."""
    if target is None:
        return Verdict(folder, True, f"{what} {accuracy:.2%} (no target set)", accuracy)
    reached = accuracy >= target
    words = f"reaches the target of {target:.2%}" if reached else f"is BELOW the target of {target:.2%}"
    return Verdict(folder, reached, f"{what} {accuracy:.2%} {words}", accuracy)


def main(name: str, argv: Sequence[str] | None = None) -> int:
    """Read the flags of the network of that name and train it; the exit status."""
    from training import arguments, series, story  # here: each of them talks through this module
    from training.networks import find

    recipe = find(name)
    options = arguments.parse(recipe, argv)
    return run(lambda settled: series.train(recipe, settled, recipe.train or story.train), options)


def run(train: Callable[[argparse.Namespace], Verdict], arguments: argparse.Namespace) -> int:
    """Train, print the run folder, and give the exit status: 0, 1 for a fault or a missed target, 130 for Ctrl-C."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras writes its progress bar to stdout
            end = train(arguments)
    except KeyboardInterrupt:
        say("\nstopped by Ctrl-C; the run is not complete: the same command goes on from its last whole epoch")
        return INTERRUPTED
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    except OSError as error:  # what is read is checked in data.py and npz.py: this is a write that failed
        say(f"error: the run cannot be written to {arguments.runs}: {_reason(error)}")
        return 1
    say(f"verdict: {end.words}")
    print(end.folder, flush=True)
    return 0 if end.reached else 1


def _reason(error: OSError) -> str:
    reason = error.strerror or " ".join(str(error).split())
    return f"{reason} ({error.filename})" if error.filename else reason
