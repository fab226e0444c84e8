"""The logger "safeloader": one line a happening, visible even in a program that never configured logging.

Where a program has a handler of its own, on this logger or on the root, its handlers alone decide how lines
look and where they go. Where it has none, lines go to standard error with date and level. This is decided for
each line anew, so a program that configures logging later gets each line once.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from safeloader import codes
from safeloader.codes import logger
from safeloader.observe import events as h
from safeloader.observe.format import printable
from safeloader.observe.messages import code_of, line_for

if TYPE_CHECKING:
    from safeloader.config import Settings

__all__ = ["configure", "level_for", "line_for", "logger", "tell"]

_WARNINGS = (
    h.FellBack | h.Stayed | h.Recovered | h.Slow | h.Skipped | h.NotUndone | h.CodeChanged
    | h.Stalled | h.StallEnded | h.RanksStalled | h.Differs | h.SlowStart
)  # fmt: skip


def _without_escapes(record: logging.LogRecord) -> bool:
    """Names and messages of others cannot steer a terminal, whoever's handler writes them there."""
    try:
        text = record.getMessage()
        if (safe := printable(text)) != text:
            record.msg, record.args = safe, None
    except Exception:  # the handler reports what is wrong with a record
        pass
    return True


logger.addFilter(_without_escapes)


class _WhenNobodyListens(logging.Handler):
    """Writes to the standard error of the moment, unless the program has any handler for the record."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr
        if stream is None or self._somebody_listens():
            return
        try:
            stream.write(printable(self.format(record)) + "\n")
            stream.flush()
        except Exception:
            self.handleError(record)

    @staticmethod
    def _somebody_listens() -> bool:
        at: logging.Logger | None = logger
        while at is not None:
            if any(not isinstance(handler, _WhenNobodyListens | logging.NullHandler) for handler in at.handlers):
                return True
            at = at.parent if at.propagate else None
        return False


def configure(settings: Settings) -> None:
    """Prepare the logger; may be called any number of times. Its level is set only if a level was given."""
    if not any(isinstance(handler, _WhenNobodyListens) for handler in logger.handlers):
        handler = _WhenNobodyListens()
        handler.setFormatter(
            logging.Formatter("%(asctime)s safeloader %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        logger.addHandler(handler)
    if settings.sources["log_level"] != "default":
        logger.setLevel(settings.log_level)


def level_for(event: h.Happening) -> int:
    """The level at which a happening is logged.

    What costs time or data, and the way back from it, is a WARNING, or an ERROR where it ends the run; what
    only completes the picture is INFO; the course of a healthy run is DEBUG.
    """
    if isinstance(event, h.Fault):
        ends = event.action == "raised" or event.verdict in ("raised", "ended")
        return logging.ERROR if ends else logging.WARNING
    if isinstance(event, h.Replayed):
        return _level_of_replay(event)
    if isinstance(event, h.Slow) and event.count & (event.count - 1):
        return logging.DEBUG  # the 1st, 2nd, 4th, 8th ... is told: a slow disk must not fill the log
    if isinstance(event, _WARNINGS):
        return logging.WARNING
    if isinstance(event, h.Restarted | h.Resumed | h.Resized | h.Unshadowed | h.Reopened):
        return logging.INFO
    if isinstance(event, h.Closed) and event.faults:
        return logging.INFO
    return logging.DEBUG


def _level_of_replay(event: h.Replayed) -> int:
    if event.action == "raises":
        return logging.ERROR
    return logging.INFO if event.outcome == "same" else logging.WARNING


def tell(event: h.Happening) -> None:
    """Log one happening as one line."""
    level = level_for(event)
    if logger.isEnabledFor(level):
        codes.log(code_of(event), level, "%s", line_for(event))
