"""That a loaded model computes here what its exporter computed there, or at least answers with distributions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from server.card import Golden
from server.description import DESCRIPTION
from server.errors import InvalidInput, ModelRefused

# A kernel of another processor or a GPU rounds differently; a wrong weight, layout or scale differs by far more.
GOLDEN_TOLERANCE = 1e-3
Run = Callable[[np.ndarray], np.ndarray]
"""From rows [n, …] to probabilities [n, C], or [n, C + 1] with a score."""


def golden(run: Run, samples: Golden, classes: int, check: Callable[[np.ndarray], None], provider: str) -> None:
    """ModelRefused unless the golden samples come out as their exporter had them; `check` says if they fit at all."""
    try:
        check(samples.inputs)
    except InvalidInput as error:
        raise ModelRefused(f"its golden samples do not fit: {error}") from error
    if samples.probabilities.shape[1] != classes:
        raise ModelRefused(f"its golden samples have {samples.probabilities.shape[1]} classes, not {classes}")
    answers = run(samples.inputs)
    off = np.abs(answers[:, :classes] - samples.probabilities).max(initial=0.0)
    if samples.ood_scores is not None:  # scores have no upper end: relative where they are large
        strange = np.abs(answers[:, -1] - samples.ood_scores) / np.maximum(1, np.abs(samples.ood_scores))
        off = np.maximum(off, strange.max(initial=0.0))
    if not off <= GOLDEN_TOLERANCE:
        raise ModelRefused(f"its golden samples are off by {off:.2g} on {provider}, more than {GOLDEN_TOLERANCE:g}")


def probabilities(run: Run, row: tuple[int, ...], dtype: np.dtype, classes: int, output: str) -> None:
    """ModelRefused unless two made-up rows of that shape get distributions: for a file without golden samples."""
    rows = np.random.default_rng(0).integers(0, 256, (2, *row)).astype(dtype)
    rows[0] = 0
    out = run(rows if dtype == np.uint8 else rows / np.float32(255))[:, :classes]
    if not (np.isfinite(out).all() and (out >= 0).all() and np.allclose(out.sum(axis=1), 1, atol=1e-3)):
        sums = " and ".join(f"{total:g}" for total in out.sum(axis=1))
        raise ModelRefused(
            f"its output {output!r} is not probabilities: two rows sum to {sums}. If it is logits, say "
            f'output = "logits" in {DESCRIPTION} beside it'
        )
