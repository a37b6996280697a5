"""`python -m training`: which networks there are, and the way to train one."""

import difflib
import sys
from collections.abc import Sequence

from training import command, compare
from training.networks import NAMES, find

HEAD = """\
python -m training NETWORK [flags]    trains, and prints the run folder
python -m training compare RUN RUN…   prints a table of runs

"""
TAIL = """
--help after a name explains its flags. The first thing to try:

  RUN=$(python -m training mlp --data digits)    # seconds; open $RUN/report.html
  python -m export "$RUN"
"""


def main(argv: Sequence[str]) -> int:
    """The exit status."""
    name, *flags = argv or ["--help"]
    if name == "compare":
        return compare.main(flags)
    if name in NAMES:
        return command.main(name, flags)
    if name in ("-h", "--help"):
        lines = "".join(f"  {name:<12} {find(name).summary}\n" for name in NAMES)
        print(f"{HEAD}{lines}{TAIL}", end="")
        return 0
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    command.say(f"python -m training: no network {name!r}; there are {', '.join(NAMES)}{hint}")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
