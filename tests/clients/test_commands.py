"""`topclass models`, `topclass health`, the help, and what happens without the extra."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import topclass as package
from tests import models
from tests.clients.command import ROOT, environment
from tests.clients.fake import Fake
from topclass.commands import cli, run

READMES = (ROOT / "README.md", ROOT / "clients" / "README.md")
Topclass = Callable[..., tuple[int, str, str]]


@pytest.fixture
def topclass(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Topclass:
    """Runs the command in this process: exit status, standard output, standard error."""
    monkeypatch.delenv("TOPCLASS_SERVER", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run_here(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(arguments)
        return (code, *capfd.readouterr())

    return run_here


def test_models(server: Any, topclass: Topclass) -> None:
    """models shows each version, which one answers, and why one is broken, without cutting anything in a pipe."""
    models.put(server.models, "pets", 2, b"broken")
    models.put(server.models, "a" * 60, 1, models.classifier())
    server.refresh()
    code, out, err = topclass("models", "--server", server.address)
    assert (code, err) == (0, "")
    header, _, first, second, third = out.splitlines()
    assert header.split() == ["model", "version", "state", "provider", "reason"]
    assert first.split() == ["a" * 60, "1", "ready", "←", "CPU"]
    assert second.split() == ["pets", "1", "ready", "←", "CPU"]
    assert third.split()[:3] == ["pets", "2", "unavailable"]
    listed = {(entry.name, entry.version): entry for entry in package.Client(server.address).models()}
    assert third.endswith(listed["pets", 2].reason)


def test_models_as_json(server: Any, topclass: Topclass) -> None:
    """models --json has every field."""
    code, out, _ = topclass("models", "--json", "--server", server.address)
    (entry,) = json.loads(out)
    assert code == 0
    assert (entry["name"], entry["version"], entry["state"], entry["newest"]) == ("pets", 1, "ready", True)
    assert (len(entry["sha256"]), entry["provider"], entry["reason"]) == (64, "CPUExecutionProvider", "")


def test_no_models(serve: Any, tmp_path: Path, topclass: Topclass) -> None:
    """A server without models is said to have none, on standard error; as JSON it is an empty list."""
    (tmp_path / "models").mkdir()
    address = serve().address
    assert topclass("models", "--server", address) == (0, "", f"{address} has no models\n")
    assert topclass("models", "--json", "--server", address) == (0, "[]\n", "")


def test_models_of_nobody(topclass: Topclass) -> None:
    """Where nobody answers, models exits with 1 and one line."""
    code, out, err = topclass("models", "--server", "127.0.0.1:1")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("topclass: no answer from a topclass server at 127.0.0.1:1: Connection refused")


def test_health(server: Any, topclass: Topclass, monkeypatch: pytest.MonkeyPatch) -> None:
    """health says serving and exits with 0, also with the address from the environment."""
    said = (0, f"{server.address}: serving\n", "")
    assert topclass("health", "--server", server.address) == said
    monkeypatch.setenv("TOPCLASS_SERVER", server.address)
    assert topclass("health", "--wait", "5") == said


def test_unhealthy(serve: Any, tmp_path: Path, fake: Fake, topclass: Topclass) -> None:
    """health exits as grpc-health-probe: 1 wrong usage, 2 no connection, 3 the call failed, 4 not serving."""
    (tmp_path / "models").mkdir()
    address = serve().address
    assert topclass("health", "--server", address) == (4, f"{address}: not serving\n", "")
    assert topclass("health", "--server", address, "--wait", "0.2")[0] == 4
    assert topclass("health", "--nonsense")[0] == 1
    assert topclass("health", "--server", "nonsense")[0] == 1
    code, out, err = topclass("health", "--server", "127.0.0.1:1", "--wait", "0.2")
    assert (code, out) == (2, "")
    assert "Connection refused" in err
    assert topclass("health", "--server", fake.address)[0] == 3


def test_version(topclass: Topclass) -> None:
    """--version names the command and its version."""
    assert topclass("--version") == (0, f"topclass {package.__version__}\n", "")


def test_no_command(topclass: Topclass) -> None:
    """No command at all, and one that does not exist, are usage errors that lead to the help."""
    code, _, err = topclass()
    assert code == 2
    assert "Commands:" in err
    code, _, err = topclass("predct")
    assert code == 2
    assert "No such command 'predct'" in err


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_documented(command: str, topclass: Topclass) -> None:
    """Every command has help that fits into 80 columns, with an example, and stands in both READMEs."""
    code, out, _ = topclass(command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert f"Example{'s' if 'Examples' in out else ''}:\n    topclass {command}" in out
    for readme in READMES:
        assert f"topclass {command}" in readme.read_text()
    assert command in topclass("--help")[1]
    options = [option for option in cli.commands[command].params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_without_the_extra(tmp_path: Path) -> None:
    """Without click or rich, the command says how to get them, in one line."""
    for missing in ("click", "rich"):
        program = f"import sys; sys.modules[{missing!r}] = None; from topclass.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"topclass: the command needs {missing}")
        assert done.stderr.endswith('pip install "topclass[cli]"\n')


def test_light_import(tmp_path: Path) -> None:
    """Importing the client imports neither the command's packages nor anything of the server."""
    program = "import sys, topclass; print(sorted({m.split('.')[0] for m in sys.modules} & {*sys.argv[1:]}))"
    unwanted = ["click", "rich", "server", "onnxruntime", "tensorflow", "PIL"]
    done = subprocess.run(
        [sys.executable, "-c", program, *unwanted],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
