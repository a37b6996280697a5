"""Every line of code on docs/protocols.md runs, each block in the environment that stands behind its fence."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.foreign.here import address

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
ENVIRONMENTS = {"triton", "kserve", "reflection", "tools"}


def blocks() -> dict[tuple[str, str, str], str]:
    """The page's code by section, language and environment; blocks of one section go on where the last one ended."""
    found: dict[tuple[str, str, str], str] = {}
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        title = section.partition("\n")[0]
        for language, environment, code in re.findall(r"^```(\w*) ?(\w*)\n(.*?)^```", section, re.M | re.S):
            key = title, language, environment
            found[key] = found.get(key, "") + code
    return found


def test_every_block_says_where_it_runs() -> None:
    """Of Python or a shell, in one of the environments, each of which has some."""
    assert {language for _, language, _ in blocks()} == {"python", "sh"}
    assert {environment for _, _, environment in blocks()} == ENVIRONMENTS


def picture() -> bytes:
    """A grey PNG of 28 x 28 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(29) * 28)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


HERE = os.environ.get("FOREIGN", "")


@pytest.mark.parametrize(("title", "language"), [key[:2] for key in blocks() if key[2] == HERE])
def test_the_pages_lines_run(title: str, language: str, tmp_path: Path) -> None:
    """They end well and print something; only the addresses are replaced. A refusal makes curl fail."""
    code = blocks()[title, language, HERE]
    for protocol, port in (("grpc", 8001), ("http", 8000)):
        code = re.sub(rf"(127\.0\.0\.1|localhost):{port}\b", address(protocol), code)
    assert not re.search(r":800\d\b", code)
    for name in ("seven.png", "two.png"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    environment = os.environ | {"CURL_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, timeout=200, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    assert done.stdout.strip()
    assert "Traceback" not in said
    if (title, language) == ("Triton's client", "python"):
        assert "0.100000:0:0" in said
    if "h2load" in code:
        assert "1000 2xx, 0 3xx, 0 4xx, 0 5xx" in said
