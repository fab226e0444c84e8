"""Stable codes of messages, and the two ways to give one: a warning, and a line of the log.

Each message has a code such as ``SL003``, which stands at its end (errors: in `SafeLoaderError.code`). `code_table`
says what each means and what to do; docs/messages.md is made from it.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

__all__ = ["coded", "log", "log_info", "log_warning", "logger", "warn"]

logger = logging.getLogger("safeloader")


def coded(code: str, text: str) -> str:
    """A message with its code: ``... [SL003]``."""
    return f"{text} [{code}]"


def warn(code: str, text: str, stacklevel: int = 1) -> None:
    """Warn (`UserWarning`); ``stacklevel`` counts as from the caller."""
    warnings.warn(coded(code, text), UserWarning, stacklevel=stacklevel + 1)


def log(code: str, level: int, text: str, *values: object, exc_info: bool = False, stacklevel: int = 1) -> None:
    """Write a line to the log; its record has the code as ``record.code``, too."""
    extra: dict[str, Any] = {"code": code}
    logger.log(level, coded(code, text), *values, exc_info=exc_info, extra=extra, stacklevel=stacklevel + 1)


def log_warning(code: str, text: str, *values: object, exc_info: bool = False) -> None:
    """Write a line to the log at the level WARNING."""
    log(code, logging.WARNING, text, *values, exc_info=exc_info, stacklevel=2)


def log_info(code: str, text: str, *values: object) -> None:
    """Write a line to the log at the level INFO."""
    log(code, logging.INFO, text, *values, stacklevel=2)
