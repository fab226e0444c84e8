"""The random generators of a training process: Python's, numpy's, torch's, and those of its accelerators."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch

__all__ = ["capture", "restore"]


def capture() -> dict[str, Any]:
    """Their states, as plain values and tensors."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(legacy=False),  # a dict, whichever bit generator it is
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore(states: dict[str, Any]) -> list[str]:
    """Put them back.

    Returns:
        What could not be, in words.
    """
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    saved = states.get("cuda")
    if saved is None:
        return []
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if here != len(saved):
        return [f"generators of {len(saved)} accelerators were saved, {here} are here: these were left as they are"]
    torch.cuda.set_rng_state_all(saved)
    return []
