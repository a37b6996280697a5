"""The options that say which server, and the client that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from topclass.client import Client

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Connection:
    """Which server, and how long a call may take."""

    server: str
    token: str | None
    ca: str | None
    timeout: float

    def client(self, retries: int = 5) -> Client:
        """A client of it."""
        try:
            return Client(
                self.server,
                timeout=self.timeout,
                retries=retries,
                root_certificates=Path(self.ca) if self.ca else None,
                token=self.token,
            )
        except ValueError as error:
            raise click.UsageError(str(error), click.get_current_context()) from None


def connection_options(timeout: float) -> Callable[[F], F]:
    """Adds --server, --token, --ca and --timeout, `timeout` seconds unless given."""

    def add(command: F) -> F:
        for option in reversed(
            (
                click.option(
                    "--server",
                    envvar="TOPCLASS_SERVER",
                    default="127.0.0.1:8001",
                    show_default=True,
                    metavar="HOST:PORT",
                    help="The server's gRPC address.",
                ),
                click.option("--token", envvar="TOPCLASS_TOKEN", help="A token that the server wants."),
                click.option(
                    "--ca",
                    type=click.Path(exists=True, dir_okay=False),
                    metavar="FILE",
                    help="Use TLS, and trust the certificates in this PEM file.",
                ),
                click.option(
                    "--timeout",
                    type=click.FloatRange(min=0, min_open=True),
                    default=timeout,
                    show_default=True,
                    metavar="SECONDS",
                    help="The longest that one call may take, retries included.",
                ),
            )
        ):
            command = option(command)
        return command

    return add
