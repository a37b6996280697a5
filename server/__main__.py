"""`python -m server`: flags and environment to a Config, then serve until a signal."""

from __future__ import annotations

import asyncio
import os
import sys

# grpc's core writes lines of its own to stderr, one of them at each stop; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from server import cli, logs
from server.app import serve
from server.config import Config, load
from server.errors import ConfigError, StartError
from server.supervisor import Supervisor


def main() -> int:
    """The exit status: 0 stopped as asked, 1 could not start, 2 a setting is wrong."""
    if sys.argv[1:2] and sys.argv[1] in cli.COMMANDS:
        return cli.main(sys.argv[1:])
    try:
        config = load(sys.argv[1:], os.environ)
        many = config.processes > 1 or config.lifeline >= 0
        logs.configure(config.log_level, config.log_format, many)
        if config.processes > 1:
            return asyncio.run(_supervise(config))
        asyncio.run(serve(config))
    except ConfigError as error:
        print(f"topclass server: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"topclass server: {error}", file=sys.stderr)
        return 1
    return 0


async def _supervise(config: Config) -> int:
    return await Supervisor(config, os.environ).run()


if __name__ == "__main__":
    sys.exit(main())
