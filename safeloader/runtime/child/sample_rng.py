"""Generators keyed by the sample: with ``Policy(sample_rng=True)`` what a sample draws depends on (seed, epoch, index)
alone, and not on who loads it, when, or after what.

The key is one 64-bit number, mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014); each generator gets a number of its own out of it.
"""

from __future__ import annotations

import hashlib
import operator
import random
import sys
from typing import Any

import torch

__all__ = ["Keyed", "key", "mix64", "seed_sample"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix64(value: int) -> int:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the value."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key(seed: int, epoch: int, index: Any) -> int:
    """The sample's number. Indices that are no integers count by their ``repr``."""
    try:
        number = operator.index(index)
    except TypeError:
        number = int.from_bytes(hashlib.blake2b(repr(index).encode(), digest_size=8).digest(), "little") | 1 << 64
    state = mix64(seed + _GAMMA)
    for part in (epoch, number & _MASK, number >> 64):
        state = mix64(state + _GAMMA + (part & _MASK))
    return state


def seed_sample(seed: int, epoch: int, index: Any) -> None:
    """Set torch's, Python's and numpy's generators for a sample."""
    state = key(seed, epoch, index)
    torch.default_generator.manual_seed(state)
    random.seed(mix64(state + _GAMMA))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(mix64(state + 2 * _GAMMA) & 0xFFFFFFFF)


class Keyed:
    """A map-style dataset whose samples find the generators set. It has no ``__getitems__``: samples come one by one.

    Args:
        dataset: the dataset itself.
        seed: of the run.
        epoch: of now.
    """

    def __init__(self, dataset: Any, seed: int, epoch: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = epoch

    def __getitem__(self, index: Any) -> Any:
        seed_sample(self.seed, self.epoch, index)
        return self.dataset[index]


def tell_epoch(thing: Any, epoch: int, depth: int = 8) -> None:
    """Call ``set_epoch`` on a dataset, or on those inside it (``Subset``, ``ConcatDataset``, ...)."""
    if callable(getattr(thing, "set_epoch", None)):
        thing.set_epoch(epoch)
        return
    inner = [getattr(thing, "dataset", None), *(getattr(thing, "datasets", None) or ())] if depth else []
    for part in inner:
        if part is not None and part is not thing:
            tell_epoch(part, epoch, depth - 1)
