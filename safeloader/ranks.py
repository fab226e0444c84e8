"""This program's place among the ranks of torch.distributed."""

from __future__ import annotations

import torch.distributed as dist

__all__ = ["ALONE", "group"]

ALONE = (0, 1)
"""Rank and world size where there is no process group."""


def group() -> tuple[int, int] | None:
    """Rank and world size; None where no process group is initialised."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else None
