"""What is known of a checkpoint: whose it is, when it was saved, and why it is not taken."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from safeloader.errors import CheckpointError, NonFiniteError

if TYPE_CHECKING:
    from pathlib import Path

    from safeloader.training.scan import Found

__all__ = ["Checkpoint", "PassedOver", "Saved", "checked_run", "known", "refusal"]


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint without opening its payload.

    Attributes:
        path: Its file.
        run: The run it belongs to.
        step: What the program counted when it was saved.
        serial: How many checkpoints were saved in this folder before it; the greatest is the newest.
        id: Unlike that of any other checkpoint.
        metric: What the program measured, or None.
        world_size: Ranks that trained.
        torch: torch's version.
        time: When, in seconds since 1970.
        kinds: The class of each part.
    """

    path: Path
    run: str
    step: int
    serial: int
    id: str
    metric: float | None
    world_size: int
    torch: str
    time: float
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PassedOver:
    """A file that was not taken, and why.

    Attributes:
        path: the file.
        why: the reason, in words.
    """

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.why}"


@dataclass(frozen=True)
class Saved:
    """A checkpoint with its content, all of it plain values and tensors on the CPU.

    Attributes:
        checkpoint: What is known of it.
        parts: The state of each part, by the name it was saved under.
        ranks: For each rank ``{"generators": ..., "loader": ...}``.
        extra: What the program added.
    """

    checkpoint: Checkpoint
    parts: dict[str, Any]
    ranks: list[dict[str, Any]]
    extra: dict[str, Any]


def known(path: Path, manifest: dict[str, Any]) -> Checkpoint:
    """A checkpoint from its manifest.

    Raises:
        CheckpointError: something is missing in it.
    """
    wanted = [item.name for item in fields(Checkpoint) if item.name != "path"]
    missing = [name for name in wanted if name not in manifest]
    if missing:
        raise CheckpointError(f"its manifest lacks {', '.join(missing)}", path=str(path))
    for name, kinds in _KINDS.items():
        value = manifest[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise CheckpointError(f"its manifest says {name}={value!r}", path=str(path))
    return Checkpoint(path=path, **{name: manifest[name] for name in wanted})


_KINDS: dict[str, Any] = {
    "run": str, "step": int, "serial": int, "id": str, "metric": (float, int, type(None)), "world_size": int,
    "torch": str, "time": (float, int), "kinds": dict,
}  # fmt: skip
_RUN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._=+,@-]{0,98}[A-Za-z0-9_=+@-])?")


def checked_run(run: Any) -> str:
    """A run's name.

    Raises:
        CheckpointError: It cannot be part of a file's name everywhere.
    """
    if not _RUN.fullmatch(str(run)):
        raise CheckpointError(
            f"run={run!r}: a run's name is made of letters, digits, spaces and . _ - = + , @ (at most 100); it begins "
            "with a letter or digit"
        )
    return str(run)


def refusal(bad: list[Found], step: int) -> NonFiniteError:
    """The error for a checkpoint that holds NaN or infinity."""
    names = [found.name for found in bad]
    shown = "; ".join(str(found) for found in bad[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
    return NonFiniteError(
        f"checkpoint {step} is not finite: {shown}",
        kind="checkpoint",
        names=names,
        hint='go on from store.latest_good(); if an infinity is meant, CheckpointStore(..., may_be_infinite=["'
        + names[0]
        + '"])',
    )
