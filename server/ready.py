"""The ready-file: where a server listens, as JSON, for who started it."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_ready(path: Path, grpc: str, http: str = "") -> None:
    """Writes {"grpc": "host:port", "http": "host:port"}, whole or not at all; without http where that port is off."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"grpc": grpc} | ({"http": http} if http else {})))
    temporary.replace(path)
