"""The parts of a run that have a state: models, optimizers, schedulers, whatever has a ``state_dict()``."""

from __future__ import annotations

from typing import Any

import torch

from safeloader import torch_private
from safeloader.errors import CheckpointError
from safeloader.training.safe_types import to_plain

__all__ = ["innermost", "kind_of", "state_of"]


def innermost(part: Any) -> Any:
    """A part without its wrappers: torch's around models, Accelerate's around optimizers and schedulers."""
    if isinstance(part, torch.nn.Module):
        return torch_private.unwrapped(part)
    for name in ("optimizer", "scheduler"):
        inner = getattr(part, name, None)
        if type(part).__module__.startswith("accelerate.") and inner is not None:
            return inner
    return part


def kind_of(part: Any) -> str:
    """The name of a part's class."""
    return type(innermost(part)).__name__


def state_of(name: str, part: Any) -> Any:
    """A part's state, plain.

    Raises:
        CheckpointError: it has none, or one that could not be loaded again.
    """
    inner = innermost(part)
    if not callable(getattr(inner, "state_dict", None)):
        raise CheckpointError(
            f"{name} is a {type(part).__name__}, which has no state_dict()",
            hint="give plain values in extra={...}",
        )
    return to_plain(inner.state_dict(), name)
