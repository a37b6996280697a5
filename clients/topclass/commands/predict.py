"""`topclass predict`: files in, one table out, every row answered once, and by the same model file."""

from __future__ import annotations

from typing import Any

import click

from topclass.batch.sinks import FORMATS
from topclass.batch.sources.streams import FORMATS as INPUT_FORMATS
from topclass.commands.connection import Connection, connection_options
from topclass.commands.prediction import Options, carry_out


@click.command(short_help="Classify pictures, arrays and tables into one table.")
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o", "--output", default="-", type=click.Path(), metavar="FILE", help="The table. [default: standard output]"
)
@click.option(
    "--format", type=click.Choice(FORMATS), help="The table's format. [default: by the ending of FILE, else csv]"
)
@click.option("--model", default="", metavar="NAME", help="The model. [default: the only one served]")
@click.option(
    "--version", type=click.IntRange(min=0), default=0, metavar="N", help="Its version. [default: the one that answers]"
)
@click.option("--top-k", type=click.IntRange(min=0), default=0, metavar="K", help="Add the K most probable classes.")
@click.option("--no-probabilities", is_flag=True, help="Leave out the columns of all classes.")
@click.option(
    "--key", metavar="NAME", help="The array or column of the inputs. [default: inputs, image, x or the only]"
)
@click.option("--id", "id_key", metavar="NAME", help="The column of the rows' names. [default: their numbers]")
@click.option(
    "--labels",
    metavar="WHERE",
    help="The true labels, for the accuracy: `folders`, a file, or a column or array of the inputs.",
)
@click.option("--report", type=click.Choice(["html"]), help="Write FILE.html, a page of what was found.")
@click.option(
    "--invert",
    type=click.Choice(["never", "auto", "always"]),
    default="never",
    show_default=True,
    help="Turn pictures over: dark ink on white for a model that learned the opposite.",
)
@click.option("--input-format", type=click.Choice(INPUT_FORMATS), help="What comes on standard input, if that is read.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows in one request. [default: 64 pictures, 1,024 rows of an array]",
)
@click.option(
    "--window", type=click.IntRange(min=1), default=16, show_default=True, metavar="N", help="Requests in flight."
)
@click.option("--strict", is_flag=True, help="Stop at the first row that has no answer.")
@click.option("--restart", is_flag=True, help="Forget the unfinished table, and begin anew.")
@click.option("--allow-model-change", is_flag=True, help="Finish an unfinished table with another model file.")
@click.option("--json", "as_json", is_flag=True, help="Write the summary to standard output, as JSON.")
@connection_options(timeout=30)
def predict(servers: tuple[str, ...], token: str | None, ca: str | None, timeout: float, **given: Any) -> int:
    """Classify INPUTS and write a table: one row for each picture or row.

    INPUTS are pictures, folders of them, zip and tar archives of them, patterns
    like 'scans/**/*.png'; arrays in .npy, .npz and IDX files; CSV, JSON lines and
    Parquet; or - for standard input. The table is CSV, JSON lines or Parquet.

    Stopped, by whatever, it goes on when the same command is given again: no row
    is missing or twice, and all are answered by the same model file.

    A row that cannot be classified has its reason in the column `error` and in
    FILE.errors.csv, and costs the others nothing; the exit status is 3.

    \b
    Examples:
      topclass predict digits/*.png -o out.csv
      topclass predict scans/ --model digits-mlp --top-k 3 -o out.parquet
      topclass predict test.npz --labels y_test --report html -o out.csv
      cat rows.jsonl | topclass predict - --input-format jsonl --id name
    """
    return carry_out(Options(**given), Connection(servers, token, ca, timeout))
