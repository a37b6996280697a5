"""When to look at the repository again: at once where the system tells of changes, and every few seconds anyhow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

log = logging.getLogger(__name__)
HOWS = ("auto", "poll", "off")
# A publisher's rename is one event; a copy is many. Look when it has been quiet for so long, or at last after that.
QUIET_MS, AT_LAST_MS = 50, 400


async def changes(folder: Path, how: str, seconds: float) -> AsyncIterator[None]:
    """Yields whenever the folder may have changed, and every `seconds` in any case: no notice reaches us of what
    another machine does on a network file system, nor once the system's limit of watches is reached.

    how: auto (notices of the system, where it gives them) or poll. Ends only when it is closed.
    """
    told = False
    while True:
        try:
            if how == "auto":
                async with aclosing(_notices(folder, seconds)) as notices:
                    async for _ in notices:
                        told = False
                        yield
        except FileNotFoundError:
            pass  # it may come back; whoever looks says that it is gone
        except Exception as error:
            if not told:
                log.warning("no notices of changes in %s (%s); looking every %g s", folder, error, seconds)
            told = True
        await asyncio.sleep(seconds)
        yield


async def _notices(folder: Path, seconds: float) -> AsyncGenerator[None, None]:
    """Yields after each burst of changes under the folder, and every `seconds`; ends when it is another folder."""
    from watchfiles import awatch  # not on every platform; without it `changes` polls

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # a line for each change is our own business
    watched = _identity(folder)
    yield  # what changed before the watch began
    async for _ in awatch(
        folder, watch_filter=None, step=QUIET_MS, debounce=AT_LAST_MS, rust_timeout=max(1, round(seconds * 1000)),
        yield_on_timeout=True, force_polling=False, ignore_permission_denied=True, debug=False,
    ):  # fmt: skip
        yield
        if _identity(folder) != watched:
            return


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
