"""The commands of `topclass`, and what each way to end means to the shell."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from topclass import __version__
from topclass.batch.failures import Failed, ReaderGone
from topclass.commands.completion import completion
from topclass.commands.health import health
from topclass.commands.models import models
from topclass.commands.predict import predict
from topclass.errors import TopclassError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_PIPE = 1, 2, 130, 143, 141


class Commands(click.Group):
    """A group in which a reader that is gone is told apart from every other fault; click itself makes it status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error


@click.group(cls=Commands, epilog="The server's address, and a token, may stand in TOPCLASS_SERVER and TOPCLASS_TOKEN.")
@click.version_option(__version__, prog_name="topclass", message="%(prog)s %(version)s")
def cli() -> None:
    """Classify pictures and table rows with a topclass server.

    \b
    Examples:
      topclass predict digits/*.png -o out.csv
      topclass models
      topclass health --wait 30
    """


for command in (predict, models, health, completion):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status: 0 done, 1 failed, 2 wrong usage, 3 some rows failed."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return cli.main(list(arguments), prog_name="topclass", standalone_mode=False) or 0
    except click.UsageError as error:
        error.show()
        # grpc-health-probe's numbers: there, 2 is "no connection".
        return 1 if error.ctx and error.ctx.command is health else EXIT_USAGE
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (TopclassError, Failed) as error:
        return _fail(str(error))
    except click.Abort:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except ReaderGone:
        # The reader, such as `head`, has all that it wanted. Nothing may be flushed there at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    """Leave through every `finally`, so that no half-written file stays behind."""
    sys.exit(EXIT_TERMINATED)


def _fail(message: str, status: int = EXIT_FAILED) -> int:
    click.echo(click.style("topclass: ", fg="red") + message, err=True)
    return status
