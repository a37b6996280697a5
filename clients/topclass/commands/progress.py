"""The bar on standard error, and the line that stays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(
    title: str, total: int | None, done: int, failed: int, *, shown: bool
) -> Iterator[Callable[[int, int], None]]:
    """A function to call with how many more rows are done and failed; draws only where `shown` and a person looks."""
    if not shown or not sys.stderr.isatty():
        yield lambda rows, bad: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            """Rows, of how many, how fast over the last half minute, and errors."""
            of = f"/{int(task.total)}" if task.total is not None else " rows"
            speed = f" {task.speed:,.0f} rows/s" if task.speed else ""
            bad = task.fields["failed"]
            errors = f" {bad:,} {'error' if bad == 1 else 'errors'}" if bad else ""
            return Text.assemble(f"{int(task.completed)}{of}", (speed, "cyan"), (errors, "red"))

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        Count(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task(title, total=total, completed=done, failed=failed)

        def advance(rows: int, bad: int) -> None:
            nonlocal failed
            failed += bad
            bar.update(task, advance=rows, failed=failed)

        yield advance


def summary(rows: int, fresh: int, failed: int, seconds: float, target: str, model: str) -> str:
    """`1,797 rows in 0.42 s (4,278 rows/s), 0 errors → out.csv; digits-mlp v3`; the speed is that of this run."""
    speed = f"{fresh / max(seconds, 1e-9):,.0f} rows/s"
    now = "" if fresh == rows else f", {fresh:,} of them now,"
    where = f" → {target}" if target else ""
    return (
        f"{rows:,} {'row' if rows == 1 else 'rows'}{now} in {seconds:.2f} s ({speed}), "
        f"{failed:,} {'error' if failed == 1 else 'errors'}{where}; {model}"
    )
