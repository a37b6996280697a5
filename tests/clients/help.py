"""`python -m tests.clients.help` writes the commands' own help into docs/cli.md, between the marks that are there."""

from __future__ import annotations

import re
from pathlib import Path

import click

from tests.clients.command import ROOT
from topclass.commands import cli

PAGE = Path(ROOT / "docs" / "cli.md")
_BLOCK = re.compile(r"(<!-- help: (topclass[a-z ]*) -->\n```text\n).*?(```\n)", re.DOTALL)


def text(command: str) -> str:
    """What `COMMAND --help` prints in 80 columns."""
    names = command.split()[1:]
    found: click.Command = cli.commands[names[0]] if names else cli
    parent = click.Context(cli, info_name="topclass")
    context = click.Context(found, info_name=names[0], parent=parent) if names else parent
    context.terminal_width = context.max_content_width = 80
    return found.get_help(context) + "\n"


def written(page: str) -> str:
    """The page, with the help as it is now."""
    return _BLOCK.sub(lambda block: f"{block[1]}{text(block[2])}{block[3]}", page)


def documented() -> set[str]:
    """The commands whose help is in the page."""
    return {block[2] for block in _BLOCK.finditer(PAGE.read_text())}


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
