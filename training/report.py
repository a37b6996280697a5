"""The report of a run: one page that needs nothing else, light or dark as the reader's device is, and its PNGs."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training import evaluate, figures, plots
from training.run import Result

WORST = 24
CONFUSED_PAIRS = 8
STYLE = Path(__file__).with_name("report.css")


def write(folder: Path, result: Result, metrics: Mapping[str, Any]) -> None:
    """Draw the plots into the folder, and write report.html with the same plots inside it."""
    drawn = figures.draw(folder, result, WORST)
    shown = {name: _picture(*pngs, figures.TITLES[name]) for name, pngs in drawn.items()}
    sections = [
        _head(result, metrics),
        _section("How it learned", f'<div class="pair">{shown["loss"]}{shown["accuracy"]}</div>'),
        _section("Where it goes wrong", f'<div class="pair">{shown["confusion"]}{_pairs(result)}</div>'),
        _section("Its surest mistakes", _mistakes(result)),
        _section("Class by class", _classes(result)),
        _section(
            "Whether it knows how sure to be", f'<div class="pair">{shown["reliability"]}{_calibration(result)}</div>'
        ),
        _section("Whether it knows what it does not know", _strangeness(result, shown.get("strangeness", ""))),
        _section("The network", shown.get("weights", "") + _layers(result.model)),
        _section("The recipe", _recipe(folder, metrics)),
        _section("The surroundings", _facts(_environment(folder))),
    ]
    title = html.escape(f"{metrics['model']} {result.assessment.test['accuracy']:.2%}")
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
        f"<main>\n{''.join(sections)}</main>\n</html>\n"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- sections


def _head(result: Result, metrics: Mapping[str, Any]) -> str:
    test = result.assessment.test
    low, high = test["accuracy_interval"]
    data = metrics["data"]
    tiles = [
        (f"{test['accuracy']:.2%}", f"test accuracy; {low:.1%} to {high:.1%} with 95 % confidence"),
        (f"{test['errors']:,}", f"wrong of {test['rows']:,} test rows"),
        (f"{test['log_loss']:.3f}", "log loss (0 is perfect)"),
        (f"{test['ece']:.2%}", "calibration error: sure against right"),
        (f"{result.model.count_params():,}", "parameters"),
        (f"{result.seconds['fit']:,.1f} s", f"of training, {len(result.history['loss'])} epochs"),
    ]
    cards = "".join(f"<div><b>{value}</b><span>{html.escape(words)}</span></div>" for value, words in tiles)
    sizes = ", ".join(f"{count:,} {part}" for part, count in data["sizes"].items())
    return (
        f"<header><h1>{html.escape(metrics['model'])}</h1>"
        f"<p>{html.escape(data['name'])}, {len(metrics['labels'])} classes; {sizes}. "
        f"Run {html.escape(metrics['run'])}.</p>{_target(result)}"
        f'<div class="tiles">{cards}</div></header>\n'
    )


def _target(result: Result) -> str:
    target = result.arguments.target
    if target is None:
        return ""
    reached = result.assessment.test["accuracy"] >= target
    words = "reached" if reached else "MISSED"
    return f'<p class="{"good" if reached else "bad"}">Target {target:.2%} {words}.</p>'


def _pairs(result: Result) -> str:
    matrix = np.array(result.assessment.test["confusion"])
    np.fill_diagonal(matrix, 0)
    names = result.dataset.labels
    places = [
        divmod(int(place), len(names)) for place in np.argsort(-matrix, axis=None, kind="stable")[:CONFUSED_PAIRS]
    ]
    rows = [(names[true], names[said], f"{matrix[true, said]:,}") for true, said in places if matrix[true, said]]
    if not rows:
        return "<p>Every test row is right.</p>"
    return _table(("true", "said", "times"), rows, numbers=1)


def _mistakes(result: Result) -> str:
    worst = evaluate.worst_mistakes(result.assessment.answers, result.dataset.test.labels, WORST)
    if not worst:
        return "<p>None: every test row is right.</p>"
    if result.dataset.is_table:
        return _mistaken_rows(result, worst)
    names = [html.escape(name) for name in result.dataset.labels]
    figures = []
    for row, true, said, sure in worst:
        source = _data_uri(plots.picture(result.dataset.test.inputs[row]))
        alt = f"test row {row}: a {names[true]}, taken for {names[said]}"
        caption = f"said <b>{names[said]}</b>, {sure:.0%}<br><span>is {names[true]}</span>"
        figures.append(f'<figure><img src="{source}" alt="{alt}"><figcaption>{caption}</figcaption></figure>')
    return f'<div class="mistakes">{"".join(figures)}</div>'


def _mistaken_rows(result: Result, worst: Sequence[tuple[int, int, int, float]]) -> str:
    names, features = result.dataset.labels, result.dataset.features or ()
    shown = features[:8]
    rows = [
        (names[said], f"{sure:.0%}", names[true], *(f"{value:g}" for value in result.dataset.test.inputs[row][:8]))
        for row, true, said, sure in worst
    ]
    return _table(("said", "sure", "true", *shown), rows, numbers=len(shown))


def _classes(result: Result) -> str:
    rows = [
        (each["label"], *(_with_ends(each, what) for what in ("precision", "recall", "f1")), f"{each['support']:,}")
        for each in result.assessment.test["per_class"]
    ]
    macro = result.assessment.test["macro"]
    total = (
        "average",
        *(f"{macro[what]:.1%}" for what in ("precision", "recall", "f1")),
        f"{result.assessment.test['rows']:,}",
    )
    words = (
        "<p>Under each figure where it lies with 95 % confidence, by drawing the test rows again a thousand times.</p>"
    )
    return words + _table(("class", "precision", "recall", "F1", "rows"), [*rows, total], numbers=4, style="total")


def _with_ends(each: Mapping[str, Any], what: str) -> str:
    low, high = each["intervals"][what]
    return f"{each[what]:.1%}\n{low * 100:.1f}-{high * 100:.1f}"


def _calibration(result: Result) -> str:
    found, test = result.assessment.calibration, result.assessment.test
    low, high = test["intervals"]["ece"]
    words = f"as it is: {found['reason']}" if not found["fitted"] else f"{found['temperature']:.3f}"
    rows = [
        ("temperature", words),
        ("calibration error before", f"{found.get('ece_before', test['ece']):.2%}"),
        ("calibration error after", f"{test['ece']:.2%}"),
        ("of other test rows, perhaps", f"{low:.2%} to {high:.2%}"),
        ("mean squared error", f"{test['mse']:.4f}"),
        *((f"right within {k}", f"{share:.2%}") for k, share in test["top_k"].items()),
    ]
    return _table(None, rows, numbers=0, style="facts")


def _strangeness(result: Result, picture: str) -> str:
    found = result.assessment.strangeness
    if found["threshold"] is None:
        return f"<p>It has no score of strangeness: {html.escape(found['reason'])}.</p>"
    kinds = [(kind, f"{each['refused']:.1%}", f"{each['auroc']:.4f}") for kind, each in found["strange"].items()]
    usual = ("the test part", f"{1 - found['accepted']['test']:.1%}", "")
    table = _table(("inputs", "refused", "AUROC"), [usual, *kinds], numbers=2)
    return f'<div class="pair">{picture}<div><p>By the {html.escape(found["method"])}.</p>{table}</div></div>'


def _layers(model: Any) -> str:
    rows = [
        (layer.name, type(layer).__name__, "x".join(map(str, layer.output.shape[1:])), f"{layer.count_params():,}")
        for layer in model.layers
    ]
    return _table(("layer", "kind", "gives", "parameters"), rows, numbers=2)


def _recipe(folder: Path, metrics: Mapping[str, Any]) -> str:
    command = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["command"]
    source = html.escape((folder / "recipe.py").read_text(encoding="utf-8"))
    return (
        f"<p>Repeat it:</p><pre>{html.escape(command)}</pre>"
        f"<details><summary>{html.escape(metrics['recipe'])}, as it was</summary><pre>{source}</pre></details>"
    )


def _environment(folder: Path) -> dict[str, Any]:
    environment: dict[str, Any] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    facts = {key: environment[key] for key in ("platform", "processors", "seed", "git_commit")}
    return {**facts, "data sha256": environment["data"]["sha256"], **environment["versions"]}


# --------------------------------------------------------------------------------------------------------------- HTML


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>\n"


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [(key.replace("_", " "), "none" if value is None else str(value)) for key, value in facts.items()]
    return _table(None, rows, numbers=0, style="facts")


def _table(head: Sequence[str] | None, rows: Iterable[Sequence[str]], numbers: int, style: str = "") -> str:
    """A table whose last `numbers` columns are set as figures."""

    def line(cells: Sequence[str], tag: str) -> str:
        first = len(cells) - numbers
        figure = ' class="n"'
        return "".join(
            f"<{tag}{figure if place >= first else ''}>{_lines(str(cell))}</{tag}>" for place, cell in enumerate(cells)
        )

    top = f"<thead><tr>{line(head, 'th')}</tr></thead>" if head else ""
    body = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in rows)
    return f'<div class="scroll"><table class="{style}">{top}<tbody>{body}</tbody></table></div>'


def _lines(cell: str) -> str:
    """A cell's text; what stands behind a line break is small."""
    first, _, rest = cell.partition("\n")
    return html.escape(first) + (f"<small>{html.escape(rest)}</small>" if rest else "")


def _picture(light: bytes, dark: bytes, words: str) -> str:
    return (
        f'<picture><source srcset="{_data_uri(dark)}" media="(prefers-color-scheme: dark)">'
        f'<img src="{_data_uri(light)}" alt="{words}"></picture>'
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
