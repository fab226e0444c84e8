"""This program's place among the ranks of torch.distributed."""

from __future__ import annotations

import sys

__all__ = ["ALONE", "group"]

ALONE = (0, 1)
"""Rank and world size where there is no process group."""


def group() -> tuple[int, int] | None:
    """Rank and world size; None where no process group is initialised."""
    dist = sys.modules.get("torch.distributed")  # what nobody has imported has no process group
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    return dist.get_rank(), dist.get_world_size()
