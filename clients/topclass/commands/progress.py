"""The bar on standard error, and the line that stays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Rows a second, over the last half minute."""
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "", style="cyan")


@contextmanager
def progress(title: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of rows that are done; draws only where `shown` and a person looks."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda rows: bar.advance(task, rows)


def summary(rows: int, failed: int, seconds: float, target: str, model: str) -> str:
    """`1,797 rows in 0.42 s (4,278 rows/s), 0 errors → out.csv; digits-mlp v3`."""
    speed = f"{rows / max(seconds, 1e-9):,.0f} rows/s"
    where = f" → {target}" if target else ""
    return (
        f"{rows:,} {'row' if rows == 1 else 'rows'} in {seconds:.2f} s ({speed}), "
        f"{failed:,} {'error' if failed == 1 else 'errors'}{where}; {model}"
    )
