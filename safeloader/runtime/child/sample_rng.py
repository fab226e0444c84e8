"""Generators keyed by the sample: with ``Policy(sample_rng=True)`` what a sample draws depends on (seed, epoch, index)
alone, and not on who loads it, when, or after what.

The key is one 64-bit number, mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014); each generator gets a number of its own out of it.
"""

from __future__ import annotations

import _random
import hashlib
import operator
import random
import sys
from typing import Any

import torch

__all__ = ["Keyed", "key", "mix64", "mix_all", "seed_sample"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_seed_python: Any = _random.Random.seed


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
    _set(state, mix64(state + _GAMMA), mix64(state + 2 * _GAMMA) & 0xFFFFFFFF)


def _set(torch_seed: int, python_seed: int, numpy_seed: int) -> None:
    torch.default_generator.manual_seed(torch_seed)
    generator: Any = getattr(random.seed, "__self__", None)
    if type(generator) is random.Random:  # what its method does with an integer
        _seed_python(generator, python_seed)
        vars(generator)["gauss_next"] = None
    else:
        random.seed(python_seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(numpy_seed)


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
        self._seeds: dict[int, tuple[int, int, int]] = {}  # of the samples that come next

    def prepared(self, indices: Any) -> Keyed:
        """Itself; these samples come next. The numbers of all at once take a fifth of what they take one by one."""
        self._seeds = {}
        numpy = sys.modules.get("numpy")
        if numpy is None or type(indices) is not list or {*map(type, indices)} != {int}:
            return self
        if min(indices) < 0 or max(indices) > _MASK >> 1:
            return self
        state = mix64(mix64(self.seed + _GAMMA) + _GAMMA + (self.epoch & _MASK))
        states = numpy.array(indices, numpy.uint64)
        states = mix_all(mix_all(states + numpy.uint64((state + _GAMMA) & _MASK), numpy) + numpy.uint64(_GAMMA), numpy)
        python = mix_all(states + numpy.uint64(_GAMMA), numpy)
        low = mix_all(states + numpy.uint64(2 * _GAMMA & _MASK), numpy) & numpy.uint64(0xFFFFFFFF)
        self._seeds = dict(zip(indices, zip(states.tolist(), python.tolist(), low.tolist(), strict=True), strict=True))
        return self

    def __getitem__(self, index: Any) -> Any:
        seeds = self._seeds.get(index) if self._seeds else None
        if seeds is None:
            seed_sample(self.seed, self.epoch, index)
        else:
            _set(*seeds)
        return self.dataset[index]


def mix_all(values: Any, numpy: Any) -> Any:
    """`mix64` of each number of an array."""
    shift = numpy.uint64
    values = (values ^ (values >> shift(30))) * shift(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> shift(27))) * shift(0x94D049BB133111EB)
    return values ^ (values >> shift(31))


def tell_epoch(thing: Any, epoch: int, depth: int = 8) -> None:
    """Call ``set_epoch`` on a dataset, or on those inside it (``Subset``, ``ConcatDataset``, ...)."""
    if callable(getattr(thing, "set_epoch", None)):
        thing.set_epoch(epoch)
        return
    inner = [getattr(thing, "dataset", None), *(getattr(thing, "datasets", None) or ())] if depth else []
    for part in inner:
        if part is not None and part is not thing:
            tell_epoch(part, epoch, depth - 1)
