"""What the server pays for its messages, by us and by the protobuf library: `make bench-wire`.

Pictures are 28 x 28 uint8, classes 10. The floors are what `docs/decisions/0002-bytes-in-bytes-out.md` builds on; the
command ends with 1 where one is not held.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np

from benchmarks import load, process
from benchmarks.timing import best
from server import service, wire
from server.lanes import Answer
from server.plain import Frames
from topclass.v1 import inference_pb2 as pb

CLASSES, SIZES = 10, (1, 32, 1024)
LABELS = [str(number) for number in range(CLASSES)]
FLOORS = {("read", 32): 2.0, ("read", 1024): 20.0, ("write", 32): 4.0, ("write", 1024): 15.0}  # times the library


def by_library(rows: np.ndarray) -> bytes:
    """The answer as one writes it first: a message for each row."""
    response = pb.PredictResponse(model="mlp", version=1, model_sha256="f" * 64, provider="CPUExecutionProvider")
    for row, top in zip(rows, rows.argmax(axis=1).tolist(), strict=True):
        response.predictions.add(top_class=top, label=LABELS[top], probability=row[top], probabilities=row)
    return response.SerializeToString()


def parsed(message: bytes) -> np.ndarray:
    """The request as one reads it first."""
    tensor = pb.PredictRequest.FromString(message).tensor
    return np.frombuffer(tensor.data, np.uint8).reshape(tuple(tensor.shape))


def main() -> int:
    """The exit status: 0 where every floor is held."""
    writer = wire.ResponseWriter("mlp", 1, "f" * 64, "CPUExecutionProvider", LABELS)
    random, held = np.random.default_rng(0), True
    print(f"{'microseconds of processor time':<34} {'rows':>6} {'library':>10} {'ours':>8} {'times':>7}")
    for count in SIZES:
        message = load.request(random.integers(0, 256, (count, 28, 28), np.uint8))
        rows = random.dirichlet(np.ones(CLASSES), count).astype(np.float32)
        answer, want, frames = Answer(rows, 0.001, 0.001, count), pb.PredictRequest(), Frames(service.plain)
        assert pb.PredictResponse.FromString(writer.write(answer, want)).predictions[0].label in LABELS

        def known(frames: Frames = frames, message: bytes = message) -> np.ndarray:
            plain = frames.find(message)
            assert plain
            return plain.rows(message)

        assert np.array_equal(known(), parsed(message))
        lines = (
            ("read", "read a request of a known frame", partial(parsed, message), known),
            ("", "read a request seen first", partial(parsed, message), partial(wire.read_request, message)),
            ("write", "write an answer", partial(by_library, rows), partial(writer.write, answer, want)),
        )
        for what, name, theirs, mine in lines:
            library, ours = best(theirs), best(mine)
            print(f"{name:<34} {count:>6,} {library:>10.1f} {ours:>8.1f} {library / ours:>7.1f}")
            if library < FLOORS.get((what, count), 0) * ours:
                held = False
                print(f"  NOT held: at least {FLOORS[what, count]:g} times")
    print(process.machine())
    print("held" if held else "NOT held")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
