"""`python -m training.cnn`: the same as `python -m training cnn`; the network is in training/networks/cnn.py."""

import sys
from collections.abc import Sequence

from training import command


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and train; the exit status."""
    return command.main("cnn", argv)


if __name__ == "__main__":
    sys.exit(main())
