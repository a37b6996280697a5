"""`topclass health`: is the server serving? Its exit codes are grpc-health-probe's."""

from __future__ import annotations

from contextlib import suppress

import click

from topclass.client import Client
from topclass.commands.connection import Connection, connection_options
from topclass.errors import TopclassError, Unavailable

EXIT_NO_CONNECTION, EXIT_CALL_FAILED, EXIT_UNHEALTHY = 2, 3, 4


@click.command(short_help="Say whether the server is serving.")
@click.option("--wait", type=click.FloatRange(min=0), default=0, metavar="SECONDS", help="Wait so long for it.")
@connection_options(timeout=5)
def health(wait: float, servers: tuple[str, ...], token: str | None, ca: str | None, timeout: float) -> int:
    """Say whether the server is serving.

    \b
    Exit status, as grpc-health-probe's: 0 it is serving; 1 wrong arguments;
    2 no connection; 3 the call failed; 4 it says that it is not serving. Of
    several servers the largest counts.

    \b
    Example:
      topclass health --server 127.0.0.1:8001 --wait 30
    """
    worst = 0
    for server in servers:
        with Connection((server,), token, ca, timeout).client() as client:
            if wait:
                _wait(client, wait)
            worst = max(worst, _check(client, server))
    return worst


def _wait(client: Client, seconds: float) -> None:
    with suppress(TopclassError):  # the check that follows says it better
        client.wait_ready(seconds)


def _check(client: Client, server: str) -> int:
    try:
        status = client.health()
    except TopclassError as error:
        click.echo(f"topclass: {error}", err=True)
        return EXIT_NO_CONNECTION if isinstance(error, Unavailable) else EXIT_CALL_FAILED
    click.echo(f"{server}: {status}")
    return 0 if status == "serving" else EXIT_UNHEALTHY
