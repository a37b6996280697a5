"""`topclass predict`: files in, one table out, every row answered by the same model file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import click

from topclass.client import Client
from topclass.commands.answers import answer
from topclass.commands.connection import Connection, connection_options
from topclass.commands.failures import Failed
from topclass.commands.progress import progress, summary
from topclass.commands.sources import Source, find_sources
from topclass.commands.table import Columns, Table, check_writable, table
from topclass.errors import ModelChanged, NotFound
from topclass.results import ModelDetails, Result
from topclass.windows import in_order
from topclass.wire import Inputs

EXIT_SOME_FAILED = 3
_WINDOW = 8  # requests in flight: the server always has the next one, and memory holds no more
_PATIENCE = 20  # retries of a request in the middle of a run: a server that restarts does not end it


@dataclass(frozen=True)
class Job:
    """What to classify and how, once the arguments are checked."""

    sources: list[Source]
    output: Path | None
    batch_size: int
    top_k: int
    probabilities: bool

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(source.rows for source in self.sources)


@click.command(short_help="Classify pictures and arrays into a CSV file.")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(exists=True))
@click.option(
    "-o", "--output", default="-", type=click.Path(), metavar="FILE", help="The CSV file. [default: standard output]"
)
@click.option("--model", default="", metavar="NAME", help="The model. [default: the only one served]")
@click.option(
    "--version", type=click.IntRange(min=0), default=0, metavar="N", help="Its version. [default: the one that answers]"
)
@click.option("--top-k", type=click.IntRange(min=0), default=0, metavar="K", help="Add the K most probable classes.")
@click.option("--no-probabilities", is_flag=True, help="Leave out the columns of all classes.")
@click.option("--key", metavar="NAME", help="The array inside an .npz. [default: inputs, x, x_test or the only one]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, metavar="N", help="Rows in one request."
)
@connection_options(timeout=30)
def predict(
    inputs: tuple[str, ...],
    output: str,
    model: str,
    version: int,
    top_k: int,
    no_probabilities: bool,
    key: str | None,
    batch_size: int,
    server: str,
    token: str | None,
    ca: str | None,
    timeout: float,
) -> int:
    """Classify INPUTS and write a CSV file: one line for each picture or row.

    INPUTS are picture files (PNG, JPEG, WebP, GIF, BMP), folders of them, and arrays in .npy and .npz files: uint8
    pictures [N, H, W] or [N, H, W, C], float32 rows [N, F].

    A picture or row that cannot be classified gets its reason in the column `error`, and the others their answer;
    the exit status is 3. Every row is answered by the same model file. The output appears when it is complete; the
    rows of a run that fails are kept in FILE.partial.

    \b
    Examples:
      topclass predict digits/*.png -o out.csv
      topclass predict scans/ --model digits-mlp --top-k 3 -o out.csv
      topclass predict test.npz --key x_test --no-probabilities | head
    """
    target = None if output == "-" else Path(output)
    if target:
        check_writable(target, [Path(path) for path in inputs])
    if key and not any(path.lower().endswith(".npz") for path in inputs):
        raise click.UsageError("--key names an array inside an .npz file, and there is none among the inputs")
    job = Job(find_sources(inputs, key), target, batch_size, top_k, not no_probabilities)
    connection = Connection(server, token, ca, timeout)
    with connection.client() as client:
        details = client.model(model, version)
    with connection.client(_PATIENCE) as client:
        return _run(job, client, details)


def _run(job: Job, client: Client, details: ModelDetails) -> int:
    name = f"{details.name} v{details.version}"
    columns = Columns(details.labels if job.probabilities else (), min(job.top_k, len(details.labels)))
    start = time.monotonic()
    written: Table | None = None
    try:
        # On a terminal, lines of the table would tear the bar apart.
        shown = job.output is not None or not sys.stdout.isatty()
        with progress(name, job.rows, shown=shown) as advance, table(job.output, columns) as written:
            for rows in _write(job, client, details, written):
                advance(rows)
    except BaseException:
        if written and written.partial:
            click.echo(f"{written.rows:,} of {job.rows:,} rows are in {written.partial}", err=True)
        raise
    target = str(job.output) if job.output else ""
    click.echo(summary(written.rows, written.failed, time.monotonic() - start, target, name), err=True)
    return EXIT_SOME_FAILED if written.failed else 0


def _write(job: Job, client: Client, details: ModelDetails, written: Table) -> Iterator[int]:
    """Write the answers, in order; yields the number of rows each time that some are written."""
    size = min(job.batch_size, details.max_rows or job.batch_size)
    chunks = chain.from_iterable(source.chunks(size) for source in job.sources)

    def ask(inputs: Inputs) -> Result:
        return client.predict(
            inputs,
            details.name,
            version=details.version,
            sha256=details.sha256,
            top_k=job.top_k,
            probabilities=job.probabilities,
        )

    try:
        with closing(in_order(partial(answer, ask), chunks, _WINDOW, cancel=client.close)) as answered:
            for answers in answered:
                written.write(answers)
                yield len(answers.rows)
    except (ModelChanged, NotFound) as error:
        raise Failed(
            f"{details.name} v{details.version} went away in the middle: {error}. A table comes from one model file "
            "only; run the command again for the newest"
        ) from None
