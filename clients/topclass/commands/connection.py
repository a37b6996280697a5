"""The options that say which servers, and the client that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from topclass.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def _addresses(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(address.strip() for each in given for address in each.split(",") if address.strip())
    if not found:
        raise click.BadParameter("it is empty; expected HOST:PORT, such as 127.0.0.1:8001", context, parameter)
    return found


@dataclass(frozen=True)
class Connection:
    """Which servers, and how long a call may take."""

    servers: tuple[str, ...]
    token: str | None
    ca: str | None
    timeout: float

    def client(self, retries: int = 5) -> Client:
        """A client of them."""
        try:
            return Client(
                self.servers,
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
                    "servers",
                    envvar="TOPCLASS_SERVER",
                    multiple=True,
                    default=("127.0.0.1:8001",),
                    show_default=True,
                    callback=_addresses,
                    metavar="HOST:PORT",
                    help="The server's gRPC address; several, or dns:///NAME:PORT, share the work.",
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
