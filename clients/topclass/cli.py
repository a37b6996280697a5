"""The command `topclass`. Only the extra `cli` brings what it needs; without it, this says how to get it."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    try:
        import rich  # noqa: F401  # what draws with it is imported when it draws

        from topclass.commands import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("click", "rich"):
            raise
        sys.exit(f'topclass: the command needs {error.name}, which is not installed: pip install "topclass[cli]"')
    sys.exit(run(sys.argv[1:]))
