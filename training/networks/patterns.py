"""Three sigmoid neurons that look at 7x7 pictures of a curve, a diagonal or a line: 150 parameters.

MEASURED
"""

from pathlib import Path

from training.networks import parts
from training.recipe import Recipe

RECIPE = Recipe(
    name="patterns",
    summary="Train three neurons to tell curves, diagonals and lines apart.",
    script=Path(__file__),
    network=parts.dense,
    knobs=("output",),
    defaults={"data": "patterns", "hidden": "", "output": "sigmoid", "learning_rate": 1e-2},
    measured={"patterns": {"epochs": 40, "batch_size": 32, "target": 0.97}},
)
