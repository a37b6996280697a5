"""The house's rules: who may import whom, and what every room must have."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("topclass", "server", "training", "export")
ALLOWED = {"topclass": set(), "server": {"topclass"}, "training": set(), "export": set()}
FOLDERS = {"topclass": ROOT / "clients" / "topclass"} | {part: ROOT / part for part in PARTS[1:]}
FILES = [(part, file) for part in PARTS for file in sorted(FOLDERS[part].rglob("*.py"))]


def imported(file: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("part", PARTS)
def test_no_part_imports_another_but_the_server_its_stubs(part: str) -> None:
    """The parts meet on disk: only the server imports topclass, and nobody imports examples, tests or retrain."""
    outside = {"tests", "examples", "retrain", "benchmarks"} | set(PARTS) - {part} - ALLOWED[part]
    wrong = {
        str(file.relative_to(ROOT)): found for p, file in FILES if p == part and (found := imported(file) & outside)
    }
    assert wrong == {}


def test_only_one_file_of_the_server_opens_onnx_runtime_sessions() -> None:
    """ONNX Runtime is known to the model, its engine and the device it computes on, to nobody else in the server."""
    users = {file.name for part, file in FILES if part == "server" and "onnxruntime" in imported(file)}
    assert users == {"model.py", "device.py", "engine.py"}


def test_only_the_http_port_knows_http() -> None:
    """Starlette, uvicorn and what reads bodies are known to the gateway and to server/http, to nobody else."""
    heard = {"starlette", "uvicorn", "orjson", "python_multipart"}
    users = {file.relative_to(ROOT) for part, file in FILES if part == "server" and imported(file) & heard}
    assert {str(user.parent if user.parent.name == "http" else user) for user in users} == {
        "server/gateway.py", "server/http",
    }  # fmt: skip


def test_the_server_knows_no_training_libraries() -> None:
    """Neither TensorFlow nor onnx is imported, even lazily."""
    heavy = {"tensorflow", "keras", "onnx", "sklearn", "tf2onnx"}
    assert {file.name for part, file in FILES if part == "server" and imported(file) & heavy} == set()


def test_every_requirement_is_pinned_once() -> None:
    """constraints.txt names a version for every requirement of every part, and no address."""
    pins = (ROOT / "constraints.txt").read_text()
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==\S+$", pins, re.M)
    assert len({name.lower() for name in pinned}) == len(pinned)
    assert "://" not in pins
    known = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    for file in ROOT.glob("*/requirements*.txt"):
        names = re.findall(r"^([A-Za-z0-9_-]+)", file.read_text(), re.M)
        wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in names if not name.startswith("-")}
        assert wanted <= known, file


def test_the_wheel_needs_only_three_packages() -> None:
    """The client's own dependencies stay grpcio, numpy and protobuf."""
    project = tomllib.loads((ROOT / "clients" / "pyproject.toml").read_text())["project"]
    assert [re.split(r"[>=]", need)[0] for need in project["dependencies"]] == ["grpcio", "numpy", "protobuf"]


def test_proto_is_never_a_package() -> None:
    """proto/ holds the contract, not Python."""
    assert list((ROOT / "proto").rglob("*.py")) == []


def test_library_code_never_prints() -> None:
    """print belongs to commands: nothing under server or topclass prints but __main__ and the command line."""
    printing = {
        str(file.relative_to(ROOT))
        for part, file in FILES
        if part in ("server", "topclass") and re.search(r"^\s*print\(", file.read_text(), re.M)
    }
    assert {name for name in printing if "__main__" not in name and "cli" not in name} == set()


def test_every_promise_of_the_operators_page_names_a_test_that_is_there() -> None:
    """Each `test_…` in docs/operate.md is a function of some test file, and each file named there exists."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "operate.md").read_text()))
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    there = {name for text in files.values() for name in re.findall(r"^def (test_\w+)\(", text, re.M)}
    assert named
    assert named <= there
