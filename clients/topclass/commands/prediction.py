"""What `topclass predict` does, once its arguments are read."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import click

from topclass.batch import job as jobs
from topclass.batch import labels, manifest, report, sinks, sources
from topclass.batch.answers import Answered, Asking, by_servers
from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed
from topclass.batch.journal import Journal, replace_file
from topclass.batch.pictures import Fitting, Invert, light_on_dark
from topclass.batch.tally import Tally
from topclass.client import Client
from topclass.commands.connection import Connection
from topclass.commands.interrupts import ending_at_once
from topclass.commands.output import check_writable, device, is_kept
from topclass.commands.progress import progress, summary
from topclass.errors import ModelChanged, NotFound
from topclass.results import ModelDetails

EXIT_SOME_FAILED = 3
_PATIENCE = 20  # retries of a request in the middle of a run: a server that restarts does not end it
_PICTURES, _ROWS = 64, 1024  # in one request
_BULK = 5  # the priority of these requests: people who wait go first


@dataclass(frozen=True)
class Options:
    """The arguments of the command, as they were given."""

    inputs: tuple[str, ...]
    output: str
    format: str | None
    model: str
    version: int
    top_k: int
    no_probabilities: bool
    key: str | None
    id_key: str | None
    labels: str | None
    report: str | None
    invert: Invert
    input_format: str | None
    batch_size: int | None
    window: int
    strict: bool
    restart: bool
    allow_model_change: bool
    as_json: bool

    @property
    def target(self) -> Path | None:
        """Where the table goes; None is standard output."""
        return None if self.output == "-" else Path(self.output)

    def check(self) -> None:
        """UsageError, or Failed, for what cannot be done together."""
        kept = self.target is not None and is_kept(self.target)
        for given, option in ((self.report, "--report"), (self.as_json, "--json")):
            if given and not kept:
                raise click.UsageError(f"{option} needs -o FILE: standard output has the table")
        if sinks.format_of(self.target, self.format) == "parquet" and not kept:
            raise click.UsageError("a Parquet table needs -o FILE: it is put together at the end")
        if self.inputs.count(manifest.STDIN) > 1:
            raise click.UsageError("standard input (-) can be read only once")
        if self.input_format and manifest.STDIN not in self.inputs:
            raise click.UsageError("--input-format says what comes on standard input, and - is not among the inputs")
        if self.key and all(Path(path).is_dir() or path.lower().endswith((".npy", *manifest.PICTURE_ENDINGS))
                            for path in self.inputs):  # fmt: skip
            raise click.UsageError(
                "--key names an array inside an .npz file, or a column of a table, and there is none among the inputs"
            )
        for path in self.inputs:
            if path != manifest.STDIN and not os.path.lexists(path) and not any(sign in path for sign in "*?["):
                raise click.UsageError(f"Invalid value for 'INPUTS...': Path {path!r} does not exist.")

    def settings(self) -> dict[str, Any]:
        """What must be the same where an unfinished table is gone on with."""
        file = Path(self.labels) if self.labels else None
        state = file.stat() if file and file.is_file() else None
        return {
            "--format": sinks.format_of(self.target, self.format),
            "--model": self.model,
            "--version": self.version,
            "--top-k": self.top_k,
            "--no-probabilities": self.no_probabilities,
            "--key": self.key,
            "--id": self.id_key,
            "--labels": [self.labels, state.st_size, state.st_mtime_ns] if state else self.labels,
            "--invert": self.invert,
            "--input-format": self.input_format,
            "--batch-size": self.batch_size,
        }


def carry_out(options: Options, connection: Connection) -> int:
    """The exit status: 0, or 3 where rows have no answer."""
    options.check()
    if options.target:
        check_writable(options.target, [Path(path) for path in options.inputs])
    truth = labels.find(options.labels)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as files:
        manifest.write(manifest.find(options.inputs), files)
        with connection.client() as client:
            details = client.model(options.model, options.version)
        with connection.client(_PATIENCE) as client:
            if options.target is None or not is_kept(options.target):
                with device(options.target) as stream, ending_at_once(str):
                    return _run(options, client, details, truth, files, jobs.Stream(stream))
            output = Path(os.path.realpath(options.target))
            with jobs.kept(output, options.settings(), files, options.restart) as journal:
                details = _pinned(client, options, details, journal, files)
                with _said_how_far(journal):
                    return _run(options, client, details, truth, files, journal)


def _pinned(client: Client, options: Options, details: ModelDetails, journal: Journal, files: IO[str]) -> ModelDetails:
    """The model file that answers all rows: that of the run before, if there was one."""
    now = {
        "name": details.name, "version": details.version, "sha256": details.sha256, "labels": list(details.labels)
    }  # fmt: skip
    if not journal.settings:
        journal.begin({**options.settings(), "model": now}, files)
        return details
    was = journal.settings["model"]
    if journal.state.done:  # nothing will be asked any more
        info = replace(details.info, name=was["name"], version=was["version"], sha256=was["sha256"])
        return replace(details, info=info, labels=tuple(was["labels"]))
    if (details.name, details.version, details.sha256) == (was["name"], was["version"], was["sha256"]):
        return details
    with suppress(NotFound):
        before = client.model(was["name"], was["version"])
        if before.sha256 == was["sha256"]:
            return before
    if details.sha256 == was["sha256"]:  # the same file under another number
        return details
    words = (
        f"the unfinished {journal.output.name} is by {was['name']} v{was['version']} ({was['sha256'][:12]}), which the "
        f"server does not have any more; it has v{details.version} ({details.sha256[:12]})"
    )
    if not options.allow_model_change:
        raise Failed(f"{words}. --allow-model-change finishes the table with that, --restart begins anew")
    if was["labels"] != now["labels"]:
        raise Failed(f"{words}, with other labels: one table cannot hold both. --restart begins anew")
    click.echo(f"topclass: {words}. The rows from {journal.state.rows:,} on are by that", err=True)
    journal.adopt({**journal.settings, "model": now})
    return details


@contextmanager
def _said_how_far(journal: Journal) -> Iterator[None]:
    """However the block is left early, the rows that are kept are said, and no empty folder stays."""

    def words() -> str:
        if journal.certain and not journal.state.done:
            kept = f"{journal.certain:,} rows are kept"
            return f"{kept}; the same command goes on from there (--restart begins anew)\n"
        if not journal.certain:
            shutil.rmtree(journal.folder, ignore_errors=True)
        return ""

    try:
        with ending_at_once(words):
            yield
    except BaseException:
        click.echo(words(), err=True, nl=False)
        raise


def _run(
    options: Options,
    client: Client,
    details: ModelDetails,
    truth: labels.Labels | None,
    files: IO[str],
    out: Journal | jobs.Stream,
) -> int:
    reading = _reading(options, details, truth)
    fitting = _fitting(options, details, reading.row)
    layout = sinks.Layout(
        details.labels,
        details.version,
        details.sha256,
        not options.no_probabilities,
        min(options.top_k, len(details.labels)),
        truth is not None,
    )
    sink = sinks.choose(sinks.format_of(options.target, options.format), layout)
    files.seek(0)
    total = sources.count(manifest.read(files), reading)
    asking = Asking(details, options.top_k, not options.no_probabilities, options.window, _BULK)

    def engine(chunks: Iterable[Chunk]) -> Generator[Answered, None, None]:
        return by_servers(client, chunks, asking)

    stdin = manifest.STDIN in options.inputs
    job = jobs.Job(files, reading, fitting, engine, sink, truth, details.labels, options.strict, stdin)
    start, already = time.monotonic(), out.state.rows
    if isinstance(out, Journal):
        if already and not out.state.done:
            click.echo(f"{already:,} rows are there already; going on behind them", err=True)
        if out.state.done:
            tally = Tally.of(details.labels, out.state.tally)
        else:
            out.open()
            tally = _answered(job, out, details, total, shown=True)
        outcome = report.Outcome(
            str(options.output), details.name, details.version, details.sha256,
            out.state.rows, out.state.failed, out.state.inverted, out.state.seconds, tally,
        )  # fmt: skip
        _publish(options, out, sink, outcome)
    else:
        # On a terminal, lines of the table would tear the bar apart.
        tally = _answered(job, out, details, total, shown=not sys.stdout.isatty())
    rows, failed = out.state.rows, out.state.failed
    target = str(options.target) if options.target else ""
    name = f"{details.name} v{details.version}"
    click.echo(summary(rows, rows - already, failed, time.monotonic() - start, target, name), err=True)
    if fitting.inverted:
        click.echo(f"{fitting.inverted:,} pictures were inverted (--invert {options.invert})", err=True)
    if truth is not None:
        click.echo(report.as_text(tally), err=True)
    return EXIT_SOME_FAILED if failed else 0


def _reading(options: Options, details: ModelDetails, truth: labels.Labels | None) -> sources.Reading:
    most = details.max_rows or options.batch_size or _ROWS
    return sources.Reading(
        row=tuple(size or 0 for size in details.input.shape[1:]),
        dtype=details.input.dtype,
        array_rows=min(options.batch_size or _ROWS, most),
        picture_rows=min(options.batch_size or _PICTURES, most),
        features=tuple(details.card.get("input", {}).get("features") or ()),
        key=options.key,
        id_key=options.id_key,
        label_key=truth.key if truth else None,
        folders=truth is not None and truth.folders,
        input_format=options.input_format,
    )


def _fitting(options: Options, details: ModelDetails, row: tuple[int, ...]) -> Fitting:
    grey = details.input.dtype == "uint8" and (len(row) == 2 or row[2:] == (1,))
    learned = light_on_dark(details.card) if grey else None
    if options.invert != "never" and not grey:
        raise click.UsageError(f"--invert is for models of grey pictures, and {details.name} takes others")
    if options.invert == "auto" and learned is False:
        raise click.UsageError(f"--invert auto: {details.name} itself learned from dark ink on white, its samples say")

    def notice() -> None:
        click.echo(
            "topclass: the pictures look like dark ink on white, and the model learned light ink on black. Nothing is "
            "inverted; --invert auto would invert such pictures",
            err=True,
        )

    suspicious = learned or (learned is None and grey and row[:2] == (28, 28))
    return Fitting(row, options.invert, notice if suspicious and options.invert == "never" else None)


def _answered(
    job: jobs.Job, out: Journal | jobs.Stream, details: ModelDetails, total: int | None, shown: bool
) -> Tally:
    name = f"{details.name} v{details.version}"
    with progress(name, total, out.state.rows, out.state.failed, shown=shown) as advance:

        def told(each: Answered) -> None:
            advance(len(each.chunk.names), len(each.errors))

        try:
            return jobs.run(job, out, told)
        except (ModelChanged, NotFound) as error:
            raise Failed(
                f"{name} went away in the middle: {error}. A table comes from one model file only; have it served "
                "again (or see --allow-model-change), and give the same command"
            ) from None


def _publish(options: Options, journal: Journal, sink: sinks.Sink, outcome: report.Outcome) -> None:
    if options.report:
        replace_file(journal.output.with_name(journal.output.name + ".html"), report.as_page(outcome))
    journal.publish(sink.finish, jobs.ERRORS_HEADER)
    if options.as_json:
        click.echo(json.dumps(outcome.as_json(), ensure_ascii=False, indent=2))
    journal.forget()
