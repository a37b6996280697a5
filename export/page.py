"""A card as a page for people, 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTH = 80
_LEFT = 18
_LONGEST_LIST = 12


def page(card: dict[str, Any], path: Path, size: int) -> str:
    """Write the page; what the card leaves out is left out here. `size` is the file's, in bytes."""
    lines = [f"{card.get('name', '?')}  ({path}, {size:,} bytes)"[:WIDTH]]
    for title, rows in _sections(card):
        filled = [(key, value) for key, value in rows if value not in (None, "", [], {})]
        if filled:
            lines += ["", title, *(line for key, value in filled for line in _row(key, value))]
    return "\n".join(lines)


def _row(key: str, value: Any) -> list[str]:
    return textwrap.wrap(
        str(value), WIDTH, initial_indent=f"  {key:<{_LEFT - 2}}", subsequent_indent=" " * _LEFT, break_on_hyphens=False
    )


def _sections(card: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    given, labels = card.get("input", {}), card.get("labels", [])
    shape = ", ".join("N" if each is None else str(each) for each in given.get("shape", []))
    yield (
        "What it does",
        [
            ("input", f"{given.get('name')}: {given.get('dtype')} [{shape}]"),
            ("columns", _some(given.get("features", []))),
            ("inside", card.get("preprocessing")),
            ("output", f"probabilities: float32 [N, {len(labels)}]"),
            ("labels", _some(labels)),
            ("calibration", _calibration(card.get("calibration") or {})),
            ("strangeness", _strangeness(card.get("out_of_distribution") or {})),
        ],
    )
    data = card.get("training_data") or {}
    sizes = data.get("sizes") or {}
    yield (
        "Where it comes from",
        [
            ("data", f"{data.get('name')}, {', '.join(f'{key} {value:,}' for key, value in sizes.items())}"),
            ("data sha256", data.get("sha256")),
            ("recipe", card.get("recipe")),
            ("run", card.get("run")),
            ("arguments", ", ".join(f"{key}={value}" for key, value in (card.get("arguments") or {}).items())),
            ("git commit", card.get("git_commit")),
            ("created", card.get("created")),
            ("versions", ", ".join(f"{key} {value}" for key, value in (card.get("versions") or {}).items())),
        ],
    )
    yield "How good it is", [(part, _numbers(values)) for part, values in (card.get("metrics") or {}).items()]
    yield "What was proven", _certificate(card.get("certificate") or {}, card.get("golden") or {})


def _certificate(proof: dict[str, Any], golden: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("compared", f"Keras and ONNX Runtime on {proof.get('samples')} samples and {proof.get('probes', 0)} probes"),
        ("batch sizes", ", ".join(map(str, proof.get("batch_sizes", [])))),
        ("differ by", f"at most {proof.get('max_abs_difference', 0):.2g} (allowed: {proof.get('tolerance', 0):g})"),
        ("scores differ by", _apart(proof)),
        ("same top class", f"{proof.get('argmax_agreement', 0):.2%}"),
        ("on", proof.get("provider")),
        ("converter", proof.get("converter")),
        ("graph sha256", proof.get("graph_sha256")),
        ("golden inputs", (golden.get("shape") or [0])[0]),
    ]


def _apart(proof: dict[str, Any]) -> str:
    if "max_ood_difference" not in proof:
        return ""
    return f"at most {proof['max_ood_difference']:.2g} (allowed: {proof.get('ood_tolerance', 0):g})"


def _calibration(calibration: dict[str, Any]) -> str:
    if not calibration.get("fitted"):
        return "none"
    told = f"temperature {calibration.get('temperature', 1):.4g}, inside"
    if "ece_before" in calibration and "ece_after" in calibration:
        told += f"; calibration error {calibration['ece_before']:.2%} before, {calibration['ece_after']:.2%} after"
    return told


def _strangeness(score: dict[str, Any]) -> str:
    if score.get("threshold") is None:
        return f"no score: {score['reason']}" if score.get("reason") else "no score"
    accepted = (score.get("accepted") or {}).get("test")
    told = "" if accepted is None else f"; {accepted:.1%} of the test part is under it"
    return f"ood_score: float32 [N], strange over {score['threshold']:g}: {score.get('method')}{told}"


def _some(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:_LONGEST_LIST]))
    return shown if len(values) <= _LONGEST_LIST else f"{shown}, and {len(values) - _LONGEST_LIST} more"


def _numbers(values: Any) -> str:
    """Give the plain numbers of one part's metrics; tables of them are in the card itself."""
    if not isinstance(values, dict):
        return str(values)
    return ", ".join(f"{key} {value:.5g}" for key, value in values.items() if isinstance(value, int | float))
