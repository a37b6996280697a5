"""`topclass completion`: what a shell must read to complete the command's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands and options.

    \b
    Examples:
      topclass completion bash >> ~/.bashrc
      topclass completion zsh > "${fpath[1]}/_topclass"
      topclass completion fish > ~/.config/fish/completions/topclass.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "topclass", "_TOPCLASS_COMPLETE").source())
