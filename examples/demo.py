"""`make demo`: train on real digits, export, serve, predict, in a folder of its own; then stop what was started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from topclass import Client, Result

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo"
MODEL = "digits-mlp"
SHOWN = 4


def main() -> int:
    """The exit status: 0 if every step worked."""
    started = time.perf_counter()
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    times: dict[str, float] = {}
    try:
        with _timed(times, "train"):
            run = Path(
                _step("Train a small network on 1,797 real handwritten digits", "training.mlp", "--runs", "demo/runs")
            )
        with _timed(times, "export"):
            _step(
                "Export it to ONNX, prove that it computes the same, publish it",
                "export",
                str(run),
                "--models",
                "demo/models",
            )
        with _timed(times, "start"):
            process, address = _start_server()
        try:
            _use(run, address, times)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    except subprocess.CalledProcessError as error:
        print(f"\nThe demo stopped: {' '.join(error.cmd[1:])} ended with status {error.returncode}.", file=sys.stderr)
        return 1
    _say("Times")
    times["all"] = time.perf_counter() - started
    told = {name: f"{taken:.1f} s" if taken >= 1 else f"{taken * 1e3:.0f} ms" for name, taken in times.items()}
    print("  " + "   ".join(f"{name} {taken}" for name, taken in told.items()))
    _how_to_go_on()
    return 0


def _use(run: Path, address: str, times: dict[str, float]) -> None:
    with np.load(run / "test.npz") as test:
        pictures, truth = test["inputs"], test["labels"]
    _say(f"Ask the server for {len(pictures)} digits that the network has never seen, from Python")
    with _timed(times, "predict"), Client(address) as client:
        result = client.predict(pictures, MODEL)
    _show(pictures, truth, result)
    right = int((result.top_class == truth).sum())
    print(
        f"  {right} of {len(truth)} right: accuracy {right / len(truth):.1%}, said by {result.model} v{result.version}"
    )
    print(f"  in {times['predict'] * 1e3:.0f} ms, of which the server computed {result.timing.compute_us / 1e3:.1f} ms")

    _say("Ask again with the batch command, from picture files")
    folder = DEMO / "digits"
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
    with _timed(times, "batch"):
        command = ["predict", "demo/digits", "-o", "demo/predictions.csv", "--server", address]
        print(f"  $ topclass {' '.join(command)}", flush=True)
        _run([sys.executable, "-m", "topclass", *command])
    for line in (DEMO / "predictions.csv").read_text().splitlines()[:4]:
        print("  " + (line if len(line) < 76 else line[:75] + "…"))


def _step(title: str, module: str, *arguments: str) -> str:
    """Runs a part as a user would; the last line of its stdout."""
    _say(title)
    print(f"  $ python -m {module} {' '.join(arguments)}", flush=True)
    return _run([sys.executable, "-m", module, *arguments]).strip().splitlines()[-1]


def _run(command: list[str]) -> str:
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def _start_server() -> tuple[subprocess.Popen[bytes], str]:
    """The server, in the background on a free port, and its address once it is ready."""
    flags = ["--models", "demo/models", "--grpc-port", "0", "--http-port", "0", "--ready-file", "demo/ready.json"]
    _say("Start the server, in the background on a free port")
    print(f"  $ python -m server {' '.join(flags)}", flush=True)
    with (DEMO / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "server", *flags], cwd=ROOT, stderr=log, env=_environment())
    ready = DEMO / "ready.json"
    deadline = time.monotonic() + 60
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            sys.stderr.write((DEMO / "server.log").read_text())
            raise subprocess.CalledProcessError(process.wait(), ["python", "-m", "server", *flags])
        time.sleep(0.02)
    address: str = json.loads(ready.read_text())["grpc"]
    print(f"  ready on {address}")
    return process, address


def _environment() -> dict[str, str]:
    """The user's, less settings of other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOPCLASS_")}


def _show(pictures: np.ndarray, truth: np.ndarray, result: Result) -> None:
    """Some digits side by side, the first mistake among them, each over what the server said of it."""
    wrong = np.flatnonzero(result.top_class != truth)[:1].tolist()
    chosen = [index for index in range(len(truth)) if index not in wrong][: SHOWN - len(wrong)] + wrong
    blocks = [_block(pictures[index]) for index in chosen]
    print()
    for lines in zip(*blocks, strict=True):
        print("  " + " ".join(lines))
    for line in (
        [f"class {result.top_class[i]}, label {result.top_label[i]!r}" for i in chosen],
        [f"probability {result.probability[i]:.4f}" for i in chosen],
        ["right" if i not in wrong else f"wrong: it is a {result.labels[truth[i]]}" for i in chosen],
    ):
        print("  " + " ".join(f"{text:<18}" for text in line))
    print()


def _block(picture: np.ndarray) -> list[str]:
    """The middle of a 28x28 picture as 10 lines of 18 characters, two dots above each other in each."""
    ink = picture[4:24, 5:23] > 80
    return [
        "".join(" ▀▄█"[above + 2 * below] for above, below in zip(*ink[row : row + 2], strict=True))
        for row in range(0, 20, 2)
    ]


def _say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


@contextlib.contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[name] = time.perf_counter() - start


def _how_to_go_on() -> None:
    _say("How to call it yourself")
    print(
        """  .venv/bin/python -m server --models demo/models &
  .venv/bin/topclass predict demo/digits/000.png
  .venv/bin/python -c "
  from topclass import Client
  print(Client().predict(['demo/digits/000.png']))"

  The report of the training is demo/runs/*/*/report.html, the proven model demo/models/*/1/model.onnx,
  all answers are in demo/predictions.csv, and the server's log is demo/server.log."""
    )


if __name__ == "__main__":
    sys.exit(main())
