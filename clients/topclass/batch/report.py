"""What a job found, as text for the terminal, as one JSON object, and as one page that needs nothing else."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any

from topclass.batch.tally import BINS, Tally

_MOST_CLASSES = 30  # of a confusion matrix that is drawn; of more, the commonest mistakes are listed
_MOST_MISTAKES = 20
_WIDE = 80


@dataclass(frozen=True)
class Outcome:
    """A finished job: rows in all, without an answer, turned over; seconds of all its runs together."""

    output: str
    model: str
    version: int
    sha256: str
    rows: int
    failed: int
    inverted: int
    seconds: float
    tally: Tally

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        tally = self.tally
        found: dict[str, Any] = {
            "output": self.output,
            "model": self.model,
            "version": self.version,
            "sha256": self.sha256,
            "rows": self.rows,
            "failed": self.failed,
            "inverted": self.inverted,
            "out_of_distribution": tally.strange,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows / max(self.seconds, 1e-9), 1),
            "predicted": dict(zip(tally.labels, tally.predicted, strict=True)),
        }
        if tally.labelled:
            low, high = tally.interval
            found |= {"labelled": tally.labelled, "correct": tally.correct, "accuracy": tally.accuracy}
            found |= {"accuracy_interval": [low, high], "unknown_labels": tally.unlabelled}
            found["confusion"] = [
                {"expected": tally.labels[true], "label": tally.labels[answer], "rows": count}
                for (true, answer), count in sorted(tally.confusion.items())
            ]
        return found


def accuracy(tally: Tally) -> str:
    """`accuracy 97.4 % (95 % interval 96.9 to 97.8), 9,740 of 10,000 rows`."""
    low, high = tally.interval
    text = f"accuracy {100 * tally.accuracy:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}), "
    text += f"{tally.correct:,} of {tally.labelled:,} rows"
    if tally.unlabelled:
        text += f"; {tally.unlabelled:,} have a label that the model does not know"
    return text


def as_text(tally: Tally) -> str:
    """Accuracy, the table of classes, and the confusion matrix where it fits into 80 columns."""
    if not tally.labelled:
        return f"no row has a label that the model knows ({', '.join(tally.labels[:10])})"
    wide = min(24, max(5, *map(len, tally.labels)))
    lines = [accuracy(tally), "", f"{'class':<{wide}} {'rows':>9} {'recall':>8} {'precision':>9}"]
    for label, rows, _, recall, precision in tally.classes():
        lines.append(f"{label[:wide]:<{wide}} {rows:>9,} {_percent(recall):>8} {_percent(precision):>9}")
    matrix = _matrix(tally, wide)
    return "\n".join(lines + (matrix if matrix else ["", "commonest mistakes:", *_listed(tally)]))


def _matrix(tally: Tally, wide: int) -> list[str]:
    most = max(tally.confusion.values())
    cell = max(len(f"{most:,}"), *(min(len(label), 8) for label in tally.labels)) + 1
    if wide + cell * len(tally.labels) > _WIDE:
        return []
    head = "".join(f"{label[:8]:>{cell}}" for label in tally.labels)
    rows = [
        f"{label[:wide]:<{wide}}"
        + "".join(f"{tally.confusion.get((i, j), 0):>{cell},}" for j in range(len(tally.labels)))
        for i, label in enumerate(tally.labels)
    ]
    return ["", "true class below, answer to the right:", " " * wide + head, *rows]


def _listed(tally: Tally) -> list[str]:
    return [f"  {true} taken for {answer}: {count:,}" for true, answer, count in tally.mistakes(_MOST_MISTAKES)]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


# --------------------------------------------------------------------------------------------------------------- page

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #64748b; --line: #dbe2ea; --bar: 37, 99, 235;
  --bad: 200, 60, 40 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf1; --soft: #94a3b8; --line: #334155; --bar: 96, 150, 255; --bad: 240, 110, 90 }
  body { background: #0f1722 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem }
p, .soft { color: var(--soft) } code { font-size: .85em; overflow-wrap: anywhere }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.4rem 0 }
.facts b { display: block; font-size: 1.5rem; line-height: 1.2; font-weight: 600 }
.facts span { color: var(--soft); font-size: .85rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: normal }
th { color: var(--soft); font-size: .85rem } th:first-child, td:first-child { text-align: left }
.matrix th:not(:first-child) { text-align: center }
.matrix td { text-align: center; border: 1px solid var(--line); min-width: 2rem }
.bars td:nth-child(2) { width: 26rem; text-align: left; padding: 0 .6rem } .bars i { display: block; height: .8rem }
i { background: rgb(var(--bar)); border-radius: 2px; min-width: 1px }
"""


def as_page(outcome: Outcome) -> str:
    """One HTML page, its style inside."""
    tally = outcome.tally
    facts = [("rows", f"{outcome.rows:,}"), ("without an answer", f"{outcome.failed:,}")]
    facts += [("out of distribution", f"{tally.strange:,}"), ("seconds", f"{outcome.seconds:,.1f}")]
    facts += [("inverted", f"{outcome.inverted:,}")] if outcome.inverted else []
    parts = [_facts(facts)]
    if tally.labelled:
        low, high = tally.interval
        parts[:0] = [
            _facts([
                ("accuracy", f"{100 * tally.accuracy:.2f} %"),
                ("95 % interval", f"{100 * low:.2f} to {100 * high:.2f} %"),
                ("right, of rows with a label", f"{tally.correct:,} / {tally.labelled:,}"),
                *([("labels unknown to the model", f"{tally.unlabelled:,}")] if tally.unlabelled else []),
            ])
        ]  # fmt: skip
        parts += [_class_table(tally), _confusion(tally)]
    parts += [
        _bars("Answers", "class", list(zip(tally.labels, tally.predicted, strict=True))),
        _bars("Probability of the top class", "from, to", _bins(tally)),
    ]
    title = f"{html.escape(outcome.model)} v{outcome.version}: {html.escape(outcome.output)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>model file <code>{outcome.sha256}</code></p>{''.join(parts)}</html>\n"
    )


def _facts(facts: list[tuple[str, str]]) -> str:
    return (
        f'<div class="facts">{"".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in facts)}</div>'
    )


def _class_table(tally: Tally) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(label)}<td>{true:,}<td>{taken:,}<td>{_percent(recall)}<td>{_percent(precision)}"
        for label, true, taken, recall, precision in tally.classes()
    )
    head = "<tr><th>class<th>rows<th>answers<th>recall<th>precision"
    return f'<h2>Classes</h2><div class="scroll"><table>{head}{rows}</table></div>'


def _confusion(tally: Tally) -> str:
    labels = tally.labels
    if len(labels) > _MOST_CLASSES:
        rows = "".join(
            f"<tr><td>{html.escape(true)}<td>{html.escape(answer)}<td>{count:,}"
            for true, answer, count in tally.mistakes(_MOST_MISTAKES)
        )
        return f"<h2>Commonest mistakes</h2><table><tr><th>true<th>answer<th>rows{rows}</table>"
    totals = [sum(tally.confusion.get((i, j), 0) for j in range(len(labels))) for i in range(len(labels))]
    lines = []
    for i, label in enumerate(labels):
        cells = []
        for j in range(len(labels)):
            count = tally.confusion.get((i, j), 0)
            share = math.sqrt(count / totals[i]) if count else 0  # the root shows the rare mistakes too
            colour = "--bar" if i == j else "--bad"
            paint = f' style="background: rgba(var({colour}), {0.75 * share:.2f})"' if count else ""
            cells.append(f"<td{paint}>{f'{count:,}' if count else ''}")
        lines.append(f"<tr><th>{html.escape(label)}{''.join(cells)}")
    head = "<tr><th>true ↓ answer →" + "".join(f"<th>{html.escape(label)}" for label in labels)
    return f'<h2>Confusion</h2><div class="scroll"><table class="matrix">{head}{"".join(lines)}</table></div>'


def _bars(title: str, name: str, rows: list[tuple[str, int]]) -> str:
    most = max((count for _, count in rows), default=0) or 1
    if len(rows) > 100:
        rows = sorted(rows, key=lambda row: -row[1])[:100]
        title += " (the 100 commonest)"
    lines = "".join(f"<tr><td>{html.escape(label)}<td>{_bar(count / most)}<td>{count:,}" for label, count in rows)
    return f'<h2>{title}</h2><table class="bars"><tr><th>{name}<th><th>rows{lines}</table>'


def _bar(share: float) -> str:
    return f'<i style="width: {100 * share:.1f}%"></i>' if share else ""


def _bins(tally: Tally) -> list[tuple[str, int]]:
    return [(f"{n / BINS:.2f} to {(n + 1) / BINS:.2f}", tally.confidence[n]) for n in range(BINS - 1, -1, -1)]
