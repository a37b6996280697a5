"""The retrain-and-export script: train, export, compare with the model now served, publish, watch it go live.

    python retrain.py digits-mlp --data digits --recipe mlp      the first time
    python retrain.py digits-mlp                                 again: recipe and data are in the model's card

Nothing is published that is worse than what is served, on the same held-out data. The exit status says how it ended:
0 published (and answered by the server, where there is one), 3 not better, so the old model stays, 4 published but
the server does not answer with it, 1 something failed, 2 a wrong flag, 130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import server.aliases
import server.model
from server.aliases import CHAMPION, PREVIOUS, AliasError, Aliases
from server.device import Devices
from server.errors import ModelRefused
from topclass import Client, InvalidInput, NotFound, TopclassError, Unavailable

PUBLISHED, FAILED, KEPT, NOT_LIVE, INTERRUPTED = 0, 1, 3, 4, 130
USUAL_SERVER, NO_SERVER = "127.0.0.1:8001", "none"
ROWS = 512  # of one request
LIVE_TOLERANCE = 1e-4  # between the file here and the server, which may have another processor
Predict = Callable[[np.ndarray], np.ndarray]


class Failure(Exception):
    """A step failed; the words are the one line that says why."""


@dataclass(frozen=True)
class Champion:
    """The model that is now served, or was published last."""

    name: str  # for people: "digits-mlp v3 on 127.0.0.1:8001"
    labels: tuple[str, ...]
    card: Mapping[str, Any]
    predict: Predict  # rows [n, …] → probabilities [n, C]


def main() -> int:
    """The exit status."""
    options = _options()
    try:
        code, line = retrain(options)
    except Failure as failure:
        code, line = FAILED, f"failed: {failure}"
    except KeyboardInterrupt:
        code, line = INTERRUPTED, "interrupted before anything was published"
    print(f"{options.model}: {line}", file=sys.stdout if code == PUBLISHED else sys.stderr)
    return code


def retrain(options: argparse.Namespace) -> tuple[int, str]:
    """All the steps; the exit status and the line that says what happened."""
    client = _connect(options)
    champion = _served(client, options) or _published(options)
    _say(f"champion: {champion.name if champion else 'none yet, so any model that proves itself is published'}")

    _aliases(options.models / options.model)  # one that cannot be read is told before hours of training

    run = _train(options, champion)
    candidate = run / "model.onnx"
    _step("export", [sys.executable, "-m", "export", str(run), "-o", str(candidate)])
    challenger = _load(candidate)
    rows, labels = _held_out(run)

    accuracy = _accuracy(challenger.probabilities, rows, labels)
    if champion is None:
        comparison = f"accuracy {accuracy:.4f} on {len(rows)} held-out rows"
    else:
        before = _compare(champion, challenger, rows, labels)
        comparison = f"accuracy {accuracy:.4f}, before {before:.4f}, on the same {len(rows)} held-out rows"
        if accuracy < before:
            return KEPT, f"not published, the model now served is better: {comparison} ({run})"

    path = _publish(candidate, options)
    _promote(path)
    if client is None:
        why = "none was asked for" if options.server == NO_SERVER else f"none at {options.server}"
        return PUBLISHED, f"published {path}: {comparison}; no server was watched, {why}"
    try:
        return _watch(client, options, path, challenger, rows, comparison)
    except KeyboardInterrupt:
        return INTERRUPTED, f"published {path}; interrupted before the server was seen to answer with it"


# ---- the model that is there ----


def _connect(options: argparse.Namespace) -> Client | None:
    """A client of the running server; None where none runs and none was asked for by name."""
    if options.server == NO_SERVER:
        return None
    client = Client(options.server, timeout=30)
    try:
        client.models(timeout=2)
    except Unavailable as error:
        if options.server_named:
            raise Failure(f"nothing was trained: {error}") from error
        client.close()
        return None
    except TopclassError as error:
        raise Failure(f"nothing was trained: {options.server} does not answer: {error}") from error
    return client


def _served(client: Client | None, options: argparse.Namespace) -> Champion | None:
    if client is None:
        return None
    try:
        details = client.model(options.model)
    except (NotFound, Unavailable):
        return None

    def predict(rows: np.ndarray) -> np.ndarray:
        batches = (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))
        results = client.predict_many(batches, options.model, version=details.version, sha256=details.sha256)
        return np.concatenate([result.probabilities for result in results])

    name = f"{options.model} v{details.version} on {options.server}"
    return Champion(name, tuple(details.labels), details.card or {}, predict)


def _published(options: argparse.Namespace) -> Champion | None:
    """The version in the repository that a server would answer with: its champion, else the newest that loads."""
    folder: Path = options.models / options.model
    versions = [int(v.name) for v in folder.glob("*") if re.fullmatch(r"[1-9]\d*", v.name)] if folder.is_dir() else []
    named = _aliases(folder).get(CHAMPION)
    for version in sorted(versions, key=lambda version: (version == named, version), reverse=True):
        try:
            model = server.model.load(folder / str(version) / "model.onnx", Devices())
        except ModelRefused as refused:
            _say(f"{folder / str(version)} is passed over: {refused}")
            continue
        card = json.loads(model.card.json) if model.card else {}
        return Champion(str(folder / str(version)), model.labels, card, model.probabilities)
    return None


# ---- the new one ----


def _train(options: argparse.Namespace, champion: Champion | None) -> Path:
    """Runs the recipe with the champion's arguments, changed by the flags; the run folder."""
    card = champion.card if champion else {}
    recipe = options.recipe or str(card.get("recipe", "")).removeprefix("training.") or "mlp"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", recipe):  # a card is input too
        raise Failure(f"the card names the recipe {recipe!r}; name one with --recipe")
    arguments = dict(card.get("arguments", {})) if f"training.{recipe}" == card.get("recipe") else {}
    arguments |= {"name": options.model, "runs": str(options.runs)}
    arguments |= {key: value for key in ("data", "data_dir", "seed") if (value := getattr(options, key)) is not None}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in arguments.items() if value is not None]
    output = _step("train", [sys.executable, "-m", "training", recipe, *flags, *options.more])
    return Path(output)


def _load(candidate: Path) -> server.model.Model:
    try:
        return server.model.load(candidate, Devices())
    except ModelRefused as refused:
        raise Failure(f"the server would refuse the new model: {refused}") from refused


def _held_out(run: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(run / "test.npz") as test:
        return test["inputs"], test["labels"]


def _compare(champion: Champion, challenger: server.model.Model, rows: np.ndarray, labels: np.ndarray) -> float:
    """The champion's accuracy on the challenger's held-out rows; Failure where the two cannot be compared."""
    if champion.labels != challenger.labels:
        raise Failure(
            f"not published: {champion.name} tells {len(champion.labels)} classes ({', '.join(champion.labels[:5])}…), "
            f"the new model {len(challenger.labels)} ({', '.join(challenger.labels[:5])}…); give it another name"
        )
    try:
        return _accuracy(champion.predict, rows, labels)
    except (InvalidInput, ModelRefused) as error:
        raise Failure(f"not published: {champion.name} cannot answer the new held-out data: {error}") from error
    except TopclassError as error:
        raise Failure(f"not published: {champion.name} could not be compared: {error}") from error


def _accuracy(predict: Predict, rows: np.ndarray, labels: np.ndarray) -> float:
    return float((predict(rows).argmax(axis=1) == labels).mean())


# ---- going live ----


def _publish(candidate: Path, options: argparse.Namespace) -> Path:
    output = _step(
        "publish",
        [
            sys.executable,
            "-m",
            "export",
            "publish",
            str(candidate),
            "--models",
            str(options.models),
            "--name",
            options.model,
        ],
    )
    return Path(output)


def _promote(path: Path) -> None:
    """Where a champion is named, the new version becomes it, and the one before is called previous for a rollback.

    Without, the newest version answers anyhow, and nothing is written.
    """
    model = path.parent.parent
    if CHAMPION not in _aliases(model):
        return
    try:
        now = server.aliases.assign(model, CHAMPION, int(path.parent.name))
    except (AliasError, OSError) as error:
        raise Failure(f"published {path}, but it could not be made champion: {error}") from error
    _say(f"champion: version {now[CHAMPION]}, previous: version {now.get(PREVIOUS, 'none')}")


def _aliases(model: Path) -> Aliases:
    try:
        return server.aliases.read(model)
    except AliasError as error:
        raise Failure(f"{model}: {error}") from error


def _watch(
    client: Client,
    options: argparse.Namespace,
    path: Path,
    challenger: server.model.Model,
    rows: np.ndarray,
    comparison: str,
) -> tuple[int, str]:
    """Waits until the server answers with the new file, and proves with real rows that it is the one proven here."""
    sha256, version = hashlib.sha256(path.read_bytes()).hexdigest(), int(path.parent.name)
    started = time.monotonic()
    last = "it does not list this version: does it serve another repository?"
    while time.monotonic() - started < options.wait:
        try:
            entry = next((m for m in client.models() if (m.name, m.version) == (options.model, version)), None)
            if entry is not None and entry.state == "unavailable":
                return NOT_LIVE, f"published {path}, but the server refused it: {entry.reason}"
            if entry is not None:
                result = client.predict(rows[:ROWS], options.model)
                if result.sha256 == sha256:
                    break
                last = f"it still answers with version {result.version}"
        except TopclassError as error:
            last = str(error)
        time.sleep(0.1)
    else:
        return NOT_LIVE, f"published {path}, but {options.server} did not take it within {options.wait:g} s: {last}"
    off = float(np.abs(result.probabilities - challenger.probabilities(rows[:ROWS])).max())
    if off > LIVE_TOLERANCE:
        return NOT_LIVE, f"published {path}; the server answers with it, but its probabilities are off by {off:.2g}"
    seconds = time.monotonic() - started
    return PUBLISHED, f"version {version} is live on {options.server} after {seconds:.1f} s: {comparison}"


# ---- telling and doing ----


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _step(name: str, command: list[str]) -> str:
    """Runs a step whose last line on stdout is its result; Failure, with its last words, where it fails."""
    _say(f"── {name}: {' '.join(command[1:])}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
    lines = done.stdout.strip().splitlines()
    if done.returncode == INTERRUPTED or done.returncode < 0:
        raise KeyboardInterrupt
    if done.returncode != 0 or not lines:
        raise Failure(f"{name} ended with status {done.returncode}; its own words are above")
    return lines[-1]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"retrain.py: {message} (--help lists the flags)\n")


def _options() -> argparse.Namespace:
    parser = _Parser(
        prog="retrain.py",
        description="Train, export, compare with the model now served, publish if it is not worse, watch it go live.",
        epilog="What follows -- goes to the training script: retrain.py digits-mlp -- --epochs 5",
    )
    named = os.environ.get("TOPCLASS_SERVER")
    parser.add_argument("model", help="the model's name in the repository")
    parser.add_argument(
        "--recipe", help="network, as `python -m training` lists them (default: what the model's card says, else mlp)"
    )
    parser.add_argument("--data", help="dataset, or path of your own (default: what the card says, else digits)")
    parser.add_argument("--data-dir", help="folder where mnist.npz and the like lie")
    parser.add_argument("--seed", type=int, help="seed of this training")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the repository (default: models)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs go (default: runs)")
    parser.add_argument(
        "--server", help=f"host:port of the running server, or {NO_SERVER} (default: {USUAL_SERVER}, if one runs there)"
    )
    parser.add_argument("--wait", type=float, default=30, help="seconds until the server must answer (default: 30)")
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    options.more = arguments[cut + 1 :]
    options.server_named = options.server is not None or named is not None
    options.server = options.server or named or USUAL_SERVER
    options.models, options.runs = options.models.absolute(), options.runs.absolute()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", options.model):
        parser.error(f"{options.model!r} is no model name: letters, digits, '.', '_' and '-'")
    return options


if __name__ == "__main__":
    sys.exit(main())
