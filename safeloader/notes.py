"""Notes on exceptions (PEP 678): where a sample was when it raised. Neither type nor message of an error changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["add_note", "in_one_line", "place"]

_SHOWN = 8


def add_note(error: BaseException, text: str) -> None:
    """Add a note, unless it is there; Python 3.10 keeps it in ``__notes__``, too, and does not print it."""
    notes = getattr(error, "__notes__", None)
    if text and not (isinstance(notes, list) and text in notes):
        if hasattr(error, "add_note"):
            error.add_note(text)
        else:
            error.__notes__ = [*(notes or ()), text]  # type: ignore[attr-defined]


def in_one_line(error: BaseException) -> str:
    """An error's class and the first line of its text, for a log: ``KeyError: 'label'``."""
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:
        text = "its text cannot be shown"
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def place(
    indices: Any, sample: int | None, *, indexed: bool, batched: bool, batch: int, epoch: int, worker: int | None
) -> str:
    """Where an error was raised: ``dataset[20], batch 2, epoch 0, worker 0``.

    Args:
        indices: what the sampler gave for the batch.
        sample: the position in the batch, from 0; None where it is not one sample's.
        indexed: the dataset is map-style.
        batched: `indices` are those of several samples.
        batch: its number in the epoch, from 0.
        epoch: its number, from 0.
        worker: its id; None without workers.
    """
    parts = [_what(indices, sample, batched) if indexed else _position(sample)]
    parts += [f"batch {batch}", f"epoch {epoch}", "" if worker is None else f"worker {worker}"]
    return ", ".join(part for part in parts if part)


def _what(indices: Any, sample: int | None, batched: bool) -> str:
    if not batched:
        return f"dataset[{_short(indices)}]"
    if sample is None:  # __getitems__, the collate function, or the set-up of the worker
        return f"samples {_listed(indices)}"
    try:
        return f"dataset[{_short(indices[sample])}]"
    except Exception:
        return f"sample at position {sample}"


def _position(sample: int | None) -> str:
    return "" if sample is None else f"sample at position {sample}"


def _listed(indices: Any) -> str:
    if not isinstance(indices, Sequence) or isinstance(indices, str):
        return _short(indices)
    rest = f", ... ({len(indices):,} in all)" if len(indices) > _SHOWN else ""
    return ", ".join(_short(index) for index in indices[:_SHOWN]) + rest


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."
