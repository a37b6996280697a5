"""`python -m server`: flags and environment to a Config, then serve until a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

# grpc's core writes lines of its own to stderr, one of them at each stop; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from server import cli
from server.app import serve
from server.config import load
from server.errors import ConfigError, StartError


def main() -> int:
    """The exit status: 0 stopped as asked, 1 could not start, 2 a setting is wrong."""
    if sys.argv[1:2] and sys.argv[1] in cli.COMMANDS:
        return cli.main(sys.argv[1:])
    try:
        config = load(sys.argv[1:], os.environ)
        logging.basicConfig(
            level=config.log_level.upper(),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)-7s %(message)s",
        )
        asyncio.run(serve(config))
    except ConfigError as error:
        print(f"topclass server: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"topclass server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
