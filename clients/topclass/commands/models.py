"""`topclass models`: what the server has."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import click

from topclass.commands.connection import Connection, connection_options
from topclass.results import ModelInfo

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {"ready": "green", "loading": "yellow", "unavailable": "red"}
_UNBOUNDED = 10_000  # columns of a pipe: nothing is cut or wrapped there


@click.command(short_help="List the models that the server has.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table, sha256 included.")
@connection_options(timeout=10)
def models(as_json: bool, servers: tuple[str, ...], token: str | None, ca: str | None, timeout: float) -> None:
    """List every version of every model that the server has, the broken ones too.

    The version marked with an arrow answers where a request names none; in
    brackets stand the aliases that a request may name instead.

    \b
    Examples:
      topclass models
      topclass models --json | jq -r '.[] | select(.newest) | .sha256'
    """
    with Connection(servers, token, ca, timeout).client() as client:
        found = client.models()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(model) for model in found], indent=2))
    elif found:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else _UNBOUNDED).print(_table(found))
    else:
        click.echo(f"{', '.join(servers)} has no models", err=True)


def _table(found: list[ModelInfo]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("version", justify="right")
    table.add_column("state", no_wrap=True)
    table.add_column("provider", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for model in found:
        state = Text(model.state, style=_COLOURS.get(model.state, ""))
        if model.newest:
            state.append(" ←", style="bold")
        if model.aliases:
            state.append(f" ({', '.join(model.aliases)})", style="bold")
        provider = model.provider.removesuffix("ExecutionProvider")
        table.add_row(Text(model.name), str(model.version), state, provider, Text(model.reason))
    return table
