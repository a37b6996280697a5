"""The same training several times, each with the next seed: the verdict is on the median, and the spread is told."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from training import arguments, command, progress
from training.recipe import Recipe

Train = Callable[[Recipe, argparse.Namespace], command.Verdict]


def train(recipe: Recipe, options: argparse.Namespace, once: Train) -> command.Verdict:
    """Train `options.seeds` times; the run of the median accuracy stands for all, and its seeds.json names them.

    A series that was interrupted goes on with the run that it was at: those before it are kept in a note on the disk.
    """
    if options.seeds == 1:
        return once(recipe, options)
    note = (
        options.runs
        / options.name
        / f".seeds-{progress.key(recipe.id, arguments.as_json(options), options.seeds)[:12]}"
    )
    done: dict[str, list[object]] = _noted(note, options.fresh == "yes")
    ends: list[command.Verdict] = []
    for seed in range(options.seed, options.seed + options.seeds):
        one = argparse.Namespace(**{**vars(options), "seed": seed, "seeds": 1})
        if str(seed) in done:
            folder, accuracy = done[str(seed)]
            end = command.verdict(Path(str(folder)), float(str(accuracy)), options.target)
        else:
            end = once(recipe, one)
            done[str(seed)] = [str(end.folder), end.accuracy]
            _write(note, done)
        command.say(f"seed {seed}: {end.words} ({end.folder})")
        ends.append(end)
    ends.sort(key=lambda end: end.accuracy)
    median = ends[(len(ends) - 1) // 2]
    spread = f"{ends[0].accuracy:.2%} to {ends[-1].accuracy:.2%}"
    _write(median.folder / "seeds.json", {"median": median.accuracy, "runs": done})
    note.unlink(missing_ok=True)
    what = f"median test accuracy of {len(ends)} seeds ({spread})"
    return command.verdict(median.folder, median.accuracy, options.target, what)


def _noted(note: Path, fresh: bool) -> dict[str, list[object]]:
    try:
        found: dict[str, list[object]] = {} if fresh else json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {seed: run for seed, run in found.items() if (Path(str(run[0])) / "metrics.json").exists()}


def _write(path: Path, document: object) -> None:
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
