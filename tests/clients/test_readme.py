"""The examples of the client's README and of docs/client.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.clients.command import ROOT
from tests.clients.test_predict import png

PAGES = (ROOT / "clients" / "README.md", ROOT / "docs" / "client.md")
EXAMPLES = [example for page in PAGES for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
DIGITS = tuple("0123456789")


@pytest.fixture
def address(tmp_path: Path, serve: Any) -> str:
    """A server of the model that the examples call."""
    digits = models.with_card(models.classifier((28, 28), classes=10), DIGITS, golden=None)
    models.put(tmp_path / "models", "digits-mlp", 1, digits)
    return serve().address


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(
    example: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example runs against a real server, and what it prints is not empty where it prints."""
    if "to_pandas" in example:
        pytest.importorskip("pandas", reason="pandas is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seven.png").write_bytes(png(np.full((28, 28), 7, np.uint8)))
    assert "127.0.0.1:8001" in example
    exec(compile(example.replace("127.0.0.1:8001", address), "example", "exec"), {"__name__": "example"})
    assert bool(capsys.readouterr().out) == ("print(" in example)


def test_there_are_examples() -> None:
    """The pages have examples of both clients, of arrays, of files, and of many batches."""
    text = "\n".join(EXAMPLES)
    assert len(EXAMPLES) >= 11
    for word in (
        "AsyncClient",
        "predict_many",
        "on_error",
        "aclosing",
        "to_pandas",
        "seven.png",
        "np.zeros",
        "client.models",
    ):
        assert word in text
