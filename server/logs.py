"""How log lines look, and which calls get one. Every library's lines go through the same renderer.

Nothing that a caller sends as a secret comes here: of a call's metadata only its request id is told.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

FORMATS = ("text", "json")
MOST_ERRORS = 20  # lines of failed calls a second; how many more there were is told with the next one
OURS = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}  # faults of the server
PASSING = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}  # the operator may want to do something
log = logging.getLogger("server.access")


def configure(level: str, style: str, many: bool) -> None:
    """Sends all log lines of the process to stderr. style: one of FORMATS. many: one of several processes."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processors=_json() if style == "json" else _text(many)
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def _json() -> list[Processor]:
    """One object a line, times in UTC."""
    return [
        _origin,
        structlog.processors.TimeStamper("iso", utc=True),
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


def _origin(_logger: Any, _name: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    return {"level": record.levelname.lower(), "logger": record.name, "pid": record.process, **event}


def _text(many: bool) -> list[Processor]:
    """For people: time, level, words, and what else there is to know."""
    plain = logging.Formatter()

    def render(_logger: Any, _name: str, event: EventDict) -> str:
        record: logging.LogRecord = event.pop("_record")
        event.pop("_from_structlog")
        message, trace, stack = event.pop("event"), event.pop("exc_info", None), event.pop("stack_info", None)
        more = "".join(f" {key}={value}" for key, value in event.items() if value != "")
        process = f"pid {record.process} " if many else ""
        line = f"{plain.formatTime(record)} {process}{record.levelname:<7} {message}{more}"
        if trace:
            line += "\n" + plain.formatException(sys.exc_info() if trace is True else trace)
        return f"{line}\n{stack}" if stack else line

    return [render]


class AccessLog:
    """A line for a share of the good calls, and for each that failed, as far as MOST_ERRORS goes. Of one event loop."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic):
        """share: 0.01 is every hundredth."""
        self._share, self._clock = share, clock
        self._due = 0.0
        self._second, self._lines, self._left_out = -1, 0, 0

    def ended(self, status: str, seconds: float, method: str, tell: Callable[[], dict[str, Any]]) -> None:
        """A call has its status. tell: gives what else is said of it, if there is a line."""
        if status in ("OK", "CANCELLED"):
            self._due += self._share
            level = logging.INFO if self._due >= 1 else logging.DEBUG
            self._due -= self._due >= 1
        else:
            level = logging.ERROR if status in OURS else logging.WARNING if status in PASSING else logging.INFO
            if log.isEnabledFor(level) and not self._may():
                level = logging.DEBUG
        if log.isEnabledFor(level):
            more = tell()
            if level > logging.DEBUG and self._left_out:
                more["left_out"], self._left_out = self._left_out, 0
            log.log(level, "%s %s %.3f ms", method, status, seconds * 1e3, extra=more)

    def _may(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        self._left_out += self._lines > MOST_ERRORS
        return self._lines <= MOST_ERRORS
