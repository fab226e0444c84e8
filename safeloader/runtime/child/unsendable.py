"""The error for a batch that was loaded but cannot be sent: which samples, and which part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.runtime import by_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.errors import NotCarriableError

__all__ = ["unsendable"]

_SHOWN = 200  # characters of the indices


def unsendable(error: Exception, batch: Any, indices: Any, classes: Sequence[type]) -> NotCarriableError:
    """Make the error.

    Args:
        error: what encoding the batch raised.
        batch: the batch.
        indices: those it was loaded for.
        classes: what the trainer knows by number.
    """
    from safeloader.errors import NotCarriableError

    reason, path, hint = str(error) or type(error).__name__, "", ""
    try:
        by_value.dumps(batch, classes, what={"batch": batch})
    except NotCarriableError as found:
        reason, path, hint = found.what, found.path, found.hint
    except Exception:
        pass
    return NotCarriableError(
        f"the batch of samples {_short(indices)} was loaded but cannot be sent to the main process: {reason}",
        path=path,
        hint=hint or "return tensors, arrays, plain values, or objects of importable classes",
        code="SL216",
    )


def _short(indices: Any) -> str:
    shown = repr(indices)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
