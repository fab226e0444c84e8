"""What a FiniteGuard found, in words, and as an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeloader.errors import NonFiniteError
from safeloader.training.scan import Found, rows_not_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HINTS", "Trouble", "error_of", "trouble_in", "trouble_in_batch"]

_SHOWN = 3
HINTS = {
    "batch": "open these samples alone: a division by a zero deviation, an empty mask, a damaged file",
    "weights": "weights do not recover: go on from the newest good checkpoint, safeloader.training.resume(store, ...)",
    "loss": "the batch and the weights are finite: look for log(0), a division by 0, or float16 overflow in the loss",
    "gradients": "the loss is finite: look for sqrt(0), a norm of 0, or an overflow in the backward pass; lower the "
    "learning rate or clip",
    "skips": "nothing is learned in this state: look at the data and the learning rate",
}


@dataclass(frozen=True)
class Trouble:
    """Something that is not finite.

    Attributes:
        kind: ``"batch"``, ``"weights"``, ``"loss"`` or ``"gradients"``.
        step: The guard's count of steps, from 0.
        batch: Number of the batch, or None.
        names: Parameters, buffers, or places in the batch.
        indices: Dataset indices, where they are known; else None.
        positions: Positions in the batch, where they can be told.
        text: All of it in one line.
    """

    kind: str
    step: int
    batch: int | None
    names: list[str]
    indices: list[Any] | None
    positions: list[int]
    text: str


def trouble_in_batch(
    found: list[tuple[Found, Any]], step: int, batch: int | None, indices: list[Any] | None
) -> Trouble:
    """What is wrong with a batch, and which of its samples.

    Args:
        found: what is not finite, each with its tensor, array or float.
        step: the step before which it came.
        batch: its number.
        indices: the dataset indices of all its samples.
    """
    per_leaf = [(rows_not_finite(leaf), leaf) for _, leaf in found]
    positions = sorted({row for rows, _ in per_leaf for row in rows})
    known = indices is not None and all(len(leaf) == len(indices) for rows, leaf in per_leaf if rows)
    bad = None
    samples = ""
    if known and indices is not None:
        bad = [indices[row] for row in positions] if positions else indices
        samples = f", of samples {_some(bad)}"
    elif positions:
        samples = f", at positions {_some(positions)} in the batch"
    what = "the batch is not finite" if batch is None else f"batch {batch} is not finite"
    return _made("batch", [item for item, _ in found], what, samples, (step, batch, bad, positions))


def trouble_in(
    kind: str, found: list[Found], what: str, step: int, batch: int | None, indices: list[Any] | None
) -> Trouble:
    """What is wrong with weights, loss or gradients, and with which batch it was seen."""
    what += "" if batch is None else f" at batch {batch}"
    samples = "" if indices is None else f", of samples {_some(indices)}"
    return _made(kind, found, what, samples, (step, batch, indices, []))


def _made(
    kind: str,
    found: list[Found],
    what: str,
    samples: str,
    where: tuple[int, int | None, list[Any] | None, list[int]],
) -> Trouble:
    shown = ", ".join(str(bad) for bad in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    step, batch, indices, positions = where
    names = [bad.name for bad in found]
    return Trouble(kind, step, batch, names, indices, positions, f"{what}{': ' if shown else ''}{shown}{more}{samples}")


def error_of(troubles: list[Trouble], step: int, elsewhere: Sequence[str] = ()) -> NonFiniteError:
    """The error for what was found in a step, here and by other ranks."""
    story = [*(trouble.text for trouble in troubles[1:]), *elsewhere]
    if not troubles:
        return NonFiniteError("another rank found what is not finite", where=f"step {step}", story=story)
    first = troubles[0]
    return NonFiniteError(
        first.text,
        kind=first.kind,
        names=first.names,
        batch=first.batch,
        indices=first.indices,
        where=f"step {step}",
        hint=HINTS[first.kind],
        story=story,
    )


def _some(items: list[Any]) -> str:
    return ", ".join(str(item) for item in items[:8]) + (f", ... ({len(items)} in all)" if len(items) > 8 else "")
