"""Serves `pets` on a free port while a command runs: python -m tests.foreign.serve -- COMMAND …; its status is ours.

The command finds the address in TOPCLASS_SERVER. It may have another environment than the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import models

SECONDS = 60  # for the server to get ready


def main(command: list[str]) -> int:
    """Starts the server, runs the command, stops the server."""
    with tempfile.TemporaryDirectory() as folder:
        repository, ready = Path(folder, "models"), Path(folder, "ready")
        repository.mkdir()
        models.put(repository, "pets", 1, models.with_card(models.classifier()))
        flags = ["--models", str(repository), "--grpc-port", "0", "--ready-file", str(ready), "--allow-control"]
        server = subprocess.Popen([sys.executable, "-m", "server", *flags])
        try:
            address = _address(server, ready)
            return subprocess.run(command, env=os.environ | {"TOPCLASS_SERVER": address}, check=False).returncode
        finally:
            server.terminate()
            server.wait(60)


def _address(server: subprocess.Popen[bytes], ready: Path) -> str:
    stop = time.monotonic() + SECONDS
    while not ready.exists():
        if server.poll() is not None or time.monotonic() > stop:
            raise SystemExit("the server did not start")
        time.sleep(0.05)
    address: str = json.loads(ready.read_text())["grpc"]
    return address


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
