"""`make bench-batch`: `topclass predict` on an .npy beside what the same server gives the load generator.

Both send requests of the same shape, uint8 [1024, 28, 28], to one server of an MLP. The load generator sends one
message again and again and looks at no answer; the command reads the file, and writes a CSV file with all
probabilities. They take turns, in whole processes; a turn of the command
counts from its first row to its last. The medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import load, networks, process

ROWS, WINDOW = 1024, 16
RATE_FLOOR = 0.80  # of the load generator's rows a second
CPU_CEILING = 1.5  # times the server's processor time in the same turn


@dataclass(frozen=True)
class Turn:
    """Rows a second, and the processor seconds that the caller and the server used for 1,000,000 of them."""

    rate: float
    caller: float
    server: float


def generator(server: process.Running, seconds: float) -> Turn:
    """A turn of the load generator: WINDOW threads, each with a connection of its own."""
    message = load.request(np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28), np.uint8))
    caller = load.Caller(server.address, message, seconds, WINDOW)
    before = server.cpu_seconds()
    caller.go()
    calls = caller.result()
    if calls.errors:
        raise SystemExit(f"the load generator saw errors: {calls.errors}")
    rows = len(calls.took) * ROWS
    took = float((calls.began + calls.took).max() - calls.began.min())
    return Turn(rows / took, 0, (server.cpu_seconds() - before) / rows * 1e6)


def command(server: process.Running, folder: Path, rows: int) -> Turn:
    """A turn of `topclass predict`."""
    line = [sys.executable, "-m", "topclass", "predict", "rows.npy", "-o", "out.csv", "--json", "--window", str(WINDOW)]
    before, used = server.cpu_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(process.ROOT / "clients"), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [*line, "--batch-size", str(ROWS), "--server", server.address],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the command failed: {done.stderr}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    seconds = json.loads(done.stdout)["seconds"]
    return Turn(rows / seconds, cpu / rows * 1e6, (server.cpu_seconds() - before) / rows * 1e6)


def main() -> int:
    """The exit status: 0 where both bars are held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600 * ROWS, help="of the .npy file")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn of the load generator")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    busy = process.foreign_load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        networks.publish(folder / "models", "mlp", both=False)
        rng = np.random.default_rng(0)
        np.save(folder / "rows.npy", rng.integers(0, 256, (chosen.rows, 28, 28), np.uint8))
        turns: list[tuple[Turn, Turn]] = []
        with process.server(folder / "models") as server:
            for _ in range(chosen.rounds):
                turns.append((generator(server, chosen.seconds), command(server, folder, chosen.rows)))
                time.sleep(0.2)
    theirs, ours = ([pair[side] for pair in turns] for side in (0, 1))
    ratio = float(np.median([our.rate / their.rate for their, our in turns]))
    share = float(np.median([our.caller / our.server for our in ours]))
    print(f"{'1,024 x 28 x 28 in a request, 16 in flight':<44} {'rows/s':>9} {'caller CPU µs/row':>18} {'server':>8}")
    for title, seen in (("load generator", theirs), ("topclass predict rows.npy -o out.csv", ours)):
        rate, caller, computed = (float(np.median([getattr(turn, n) for turn in seen])) for n in Turn.__annotations__)
        print(f"  {title:<42} {rate:>9,.0f} {f'{caller:.2f}' if caller else '-':>18} {computed:>8.2f}")
    print(f"  rows/s {ratio:.2f} of the load generator's (at least {RATE_FLOOR:.2f})")
    print(f"  processor time {share:.2f} times the server's (at most {CPU_CEILING:.2f})")
    print(f"{process.machine()}; {busy:.2f} processors busy with other things before")
    held = ratio >= RATE_FLOOR and share <= CPU_CEILING
    print("held" if held else "NOT held")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
