"""What the score of strangeness costs: `python -m benchmarks.ood FILE…`, each with and without it, in one run.

Both graphs answer the same pictures in turn on one thread; the best of many calls counts, for noise only ever adds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.names import OUTPUT, SCORE
from export.verify import golden_of, open_session, read_card

BATCHES = (1, 8, 32, 128)


def main() -> int:
    """Print a line for each file and batch size; the exit status."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.ood", description="Measure what ood_score costs.")
    flags.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a model.onnx with the output ood_score")
    flags.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each batch size (default: 5)")
    options = flags.parse_args()
    for file in options.files:
        data = file.read_bytes()
        card = read_card(data)
        if (card.get("out_of_distribution") or {}).get("threshold") is None:
            print(f"benchmarks.ood: {file} has no output {SCORE}", file=sys.stderr)
            return 1
        inputs, _ = golden_of(card)
        sessions = open_session(without_score(data)), open_session(data)
        for batch in BATCHES:
            rows = np.resize(inputs, (batch, *inputs.shape[1:]))
            plain, scored = (1e6 * seconds for seconds in best(sessions, rows, options.seconds))
            told = f"{plain:9.1f} µs without  {scored:9.1f} µs with  {scored / plain - 1:+.1%}"
            print(f"{card['name']}  batch {batch:>4}  {told}", flush=True)
    return 0


def without_score(data: bytes) -> bytes:
    """The same graph, cut to what its probabilities need."""
    model = onnx.load_from_string(data)
    wanted, kept = {OUTPUT}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    constants = [each for each in model.graph.initializer if each.name in wanted]
    del model.graph.node[:], model.graph.output[1:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(constants)
    return bytes(model.SerializeToString())


def best(sessions: tuple[onnxruntime.InferenceSession, ...], rows: np.ndarray, seconds: float) -> list[float]:
    """The seconds of the quickest call of each session, the sessions taking turns."""
    found, name = [np.inf] * len(sessions), sessions[0].get_inputs()[0].name
    wanted = [[output.name for output in session.get_outputs()] for session in sessions]
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for place, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(wanted[place], {name: rows})
            found[place] = min(found[place], time.perf_counter() - start)
    return found


if __name__ == "__main__":
    sys.exit(main())
