"""The figures as lines for a terminal and as Markdown for docs/benchmarks.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import LIMIT, PLAIN, Measured, cpu, rate
from benchmarks.verdict import Started, Verdict

HEAD = ("case", "server", "requests/s", "x plain", "CPU s per 1,000", "x plain", "of the limit", "p50 ms", "p99 ms")
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of the figures -->"
_WIDTHS = (28, 13, 11, 8, 16, 8, 13, 9, 9)


def rows(measured: Measured) -> list[tuple[str, ...]]:
    """One row a server, as HEAD says. "of the limit": what ONNX Runtime alone needs of the processor, over this."""
    found: list[tuple[str, ...]] = []
    for name in measured.samples:
        case = "" if found else measured.case.name + (" void" if measured.void else "")
        p50, p99 = (measured.median(name, lambda s, q=q: getattr(s, q)) for q in ("p50", "p99"))  # type: ignore[misc]
        against = ("", "") if name in (PLAIN, LIMIT) else (
            f"{measured.ratio(name, rate):.2f}", f"{measured.ratio(name, cpu):.3f}"
        )  # fmt: skip
        limit = "" if name == LIMIT else f"{measured.ratio(LIMIT, cpu, name):.0%}"
        found.append(
            (case, name, f"{measured.median(name, rate):,.0f}", against[0], f"{measured.median(name, cpu) * 1e3:.4f}",
             against[1], limit, _ms(p50), _ms(p99))
        )  # fmt: skip
    return found


def line(cells: Iterable[str]) -> str:
    """A line of the terminal's table."""
    first, second, *rest = (f"{cell:{'<' if place < 2 else '>'}{_WIDTHS[place]}}" for place, cell in enumerate(cells))
    return " ".join((first, second, *rest)).rstrip()


def told(verdicts: Sequence[Verdict]) -> list[str]:
    """A line for each bar."""
    word = {True: "held", False: "MISSED", None: "void"}
    return [f"{word[each.held]:<7} {each.name}: {each.found} ({each.wanted})" for each in verdicts]


def markdown(
    measured: Sequence[Measured], started: Mapping[str, Started], verdicts: Sequence[Verdict], about: Sequence[str]
) -> str:
    """Everything, for the page."""
    lines = [*about, "", *_table(HEAD, [row for each in measured for row in rows(each)], left=2), ""]
    starts = [(name, f"{each.seconds:.2f} s", f"{each.rss_bytes / 1e6:.0f} MB") for name, each in started.items()]
    lines += [*_table(("server", "start to first right answer", "resident, MLP loaded"), starts, left=1), ""]
    word = {True: "held", False: "**missed**", None: "void"}
    bars = [(each.name, each.found, each.wanted, word[each.held]) for each in verdicts]
    return "\n".join([*lines, *_table(("bar", "found", "wanted", ""), bars, left=4)])


def put(page: Path, figures: str) -> None:
    """Replaces what stands between the page's two marks; ValueError where they are not there."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r}; the figures go between them")
    page.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}")


def _table(head: Sequence[str], cells: Sequence[Sequence[str]], left: int) -> list[str]:
    ruler = ["---" if place < left else "--:" for place in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, ruler, *cells)]


def _ms(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
