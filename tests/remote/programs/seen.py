"""What programs on a Ray cluster see of it, and how they load."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import psutil
import torch

__all__ = ["agents", "children_of", "epoch", "processes_there", "title"]


def agents() -> list[psutil.Process]:
    """The actors, wherever they are."""
    return [process for process in psutil.process_iter() if "ray::HostAgent" in title(process)]


def processes_there() -> list[psutil.Process]:
    """Those that serve loaders, children of actors."""
    return [child for agent in agents() for child in children_of(agent) if "process_main" in title(child)]


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """None, if it is gone."""
    try:
        return list(process.children())
    except psutil.Error:
        return []


def title(process: psutil.Process) -> str:
    """ "" if it is gone."""
    try:
        return " ".join(process.cmdline()) if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def epoch(loader: Any, at: dict[int, Callable[[], object]]) -> str:
    """An epoch, with something done after so many batches."""
    torch.manual_seed(7)
    found = hashlib.sha256()
    for number, batch in enumerate(loader):
        found.update(batch.numpy().tobytes())
        at.get(number, int)()
    return found.hexdigest()
