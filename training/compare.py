"""`python -m training compare RUN RUN…`: a table of what runs differ in, and what came of it."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training import arguments, command
from training.errors import DataError, TrainingError

MOST_COLUMNS = 12  # arguments that differ; more would not fit on any screen
_UNIMPORTANT = {"runs", "name", "data_dir", "target"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status."""
    flags = arguments.Parser(
        prog="python -m training compare",
        description="Print a table of runs: where they differ, and how good they are.",
    )
    flags.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    options = flags.parse_args(argv)
    return guarded(lambda: print(table([read(folder) for run in options.runs for folder in _folders(run)])))


def guarded(do: Callable[[], None]) -> int:
    """Do what a command does; the exit status. A TrainingError is one line on stderr."""
    try:
        do()
    except TrainingError as error:
        command.say(f"error: {error}")
        return error.exit_status
    return 0


def read(run: Path) -> dict[str, Any]:
    """What a run's metrics.json says; DataError where there is none that can be read."""
    path = run / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{run} is no complete run: it has no metrics.json") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("metrics"), dict):
        raise DataError(f"{path} is not what training writes: it has no metrics")
    return metrics


def table(runs: Sequence[dict[str, Any]]) -> str:
    """A line for each run: its name, the arguments in which the runs differ, and the figures of the test part."""
    differing = _differing([run.get("arguments") or {} for run in runs])
    head = ["model", "run", *differing, "accuracy", "95 %", "log loss", "ECE", "strange refused", "fit"]
    lines = [[run.get("model"), run.get("run"), *_arguments(run, differing), *_figures(run)] for run in runs]
    cells = [[_text(cell) for cell in line] for line in [head, *lines]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _folders(given: Path) -> list[Path]:
    """The run itself, or the complete runs inside a folder of runs, at any depth, in their order."""
    if (given / "metrics.json").exists() or not given.is_dir():
        return [given]
    return sorted(path.parent for path in given.rglob("metrics.json")) or [given]


def _differing(given: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for arguments_ in given for name in arguments_ if name not in _UNIMPORTANT)
    found = [name for name in names if len({json.dumps(each.get(name), default=str) for each in given}) > 1]
    return found[:MOST_COLUMNS]


def _arguments(run: dict[str, Any], names: Sequence[str]) -> list[Any]:
    given = run.get("arguments") or {}
    return [given.get(name) for name in names]


def _figures(run: dict[str, Any]) -> list[str]:
    test = run["metrics"].get("test") or {}
    low, high = test.get("accuracy_interval") or (None, None)
    strange = ((run.get("out_of_distribution") or {}).get("strange") or {}).values()
    seconds = (run.get("seconds") or {}).get("fit")
    return [
        _share(test.get("accuracy")),
        "-" if low is None else f"{low:.1%} to {high:.1%}",
        "-" if test.get("log_loss") is None else f"{test['log_loss']:.4f}",
        _share(test.get("ece")),
        _share(min((each["refused"] for each in strange), default=None)),
        "-" if seconds is None else f"{seconds:,.0f} s",
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
