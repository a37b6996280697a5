"""Serves small models while a command runs: python -m tests.foreign.serve -- COMMAND …; its status is ours.

The command finds the addresses in TOPCLASS_SERVER (gRPC) and TOPCLASS_HTTP. Its environment may be another than the
server's.
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
        models.put(repository, "photos", 1, models.with_card(models.classifier((8, 6, 3)), golden=None))
        models.put(repository, "digits-mlp", 1, models.classifier((28, 28), classes=10))
        (repository / "digits-mlp" / "aliases.json").write_text('{"champion": 1}')
        flags = ["--models", str(repository), "--grpc-port", "0", "--http-port", "0", "--ready-file", str(ready)]
        server = subprocess.Popen([sys.executable, "-m", "server", *flags, "--allow-control", "--shared-memory"])
        try:
            where = _addresses(server, ready)
            environment = os.environ | {"TOPCLASS_SERVER": where["grpc"], "TOPCLASS_HTTP": where["http"]}
            return subprocess.run(command, env=environment, check=False).returncode
        finally:
            server.terminate()
            server.wait(60)


def _addresses(server: subprocess.Popen[bytes], ready: Path) -> dict[str, str]:
    stop = time.monotonic() + SECONDS
    while not ready.exists():
        if server.poll() is not None or time.monotonic() > stop:
            raise SystemExit("the server did not start")
        time.sleep(0.05)
    found: dict[str, str] = json.loads(ready.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
