"""`python -m training.mlp`: the same as `python -m training mlp`; the network is in training/networks/mlp.py."""

import sys
from collections.abc import Sequence

from training import command


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and train; the exit status."""
    return command.main("mlp", argv)


if __name__ == "__main__":
    sys.exit(main())
