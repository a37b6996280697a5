"""docs/cli.md and the shell's completion say what the commands are."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.clients import help as pages
from tests.clients.command import environment
from topclass.commands import cli


def test_every_command_is_documented() -> None:
    """docs/cli.md has the help of every command, and of the whole, and it is the help of now."""
    assert pages.documented() == {"topclass", *(f"topclass {name}" for name in cli.commands)}
    page = pages.PAGE.read_text()
    assert page == pages.written(page), "run: python -m tests.clients.help"
    assert max(len(line) for name in pages.documented() for line in pages.text(name).splitlines()) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    """completion prints a script that the shell itself can read, where that shell is here."""
    command = [sys.executable, "-m", "topclass", "completion", shell]
    script = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout
    assert "_TOPCLASS_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [("topclass pre", "1", "plain,predict\n"), ("topclass predict --inv", "2", "plain,--invert\n"),
     ("topclass predict --invert a", "3", "plain,auto\nplain,always\n")],
)  # fmt: skip
def test_completion(words: str, number: str, expected: str) -> None:
    """What the script asks is answered with commands, options and their values."""
    asked = environment(_TOPCLASS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
    command = [sys.executable, "-c", "from topclass.cli import main; main()"]
    assert subprocess.run(command, env=asked, capture_output=True, text=True, check=True).stdout == expected
