"""The ready-file: where a server listens, as JSON, for who started it."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_ready(path: Path, grpc: str) -> None:
    """Writes {"grpc": "host:port"}, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"grpc": grpc}))
    temporary.replace(path)
