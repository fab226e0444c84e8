"""Orders of an epoch as pure functions of (seed, epoch, length): any position can be asked for at once.

Up to 2**20 samples the order is the one that sorts the samples by random 64-bit keys, a uniform permutation. Beyond, it
would cost gigabytes and minutes (``randperm(10**9)``: 8 GB), so it is computed position by position: a Feistel network
over the next power of two (Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions",
SIAM J. Comput. 17, 1988), walked until it falls below the length (Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). Shuffling this way is as good as a library's where the round function mixes well: Mitchell,
Stokes, Frank and Holmes, "Bandwidth-optimal random shuffling for GPUs", ACM TOPC 9, 2022.

numpy's and torch's own permutations are not used: their streams may change between versions, and a state may not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from safeloader.runtime.child.sample_rng import mix_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Words = NDArray[np.uint64]

__all__ = ["Feistel", "Order", "Sequence", "Sorted", "WeightedDraws", "mix_words", "order_of", "weighted_order_of"]

SORTED_UP_TO = 1 << 20
_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Order(Protocol):
    """From positions in an epoch to indices of samples."""

    def at(self, positions: Integers) -> Integers:
        """The indices at these positions, which are below the length."""
        ...


def mix_words(words: Words) -> Words:
    """SplitMix64's finaliser on each word."""
    mixed: Words = mix_all(words, np)
    return mixed


def _key(*parts: int) -> np.uint64:
    """One word out of several numbers."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = mix_words(state + np.uint64((part + _GAMMA) & _MASK))
    word: np.uint64 = state[0]
    return word


def _hashed(key: np.uint64, positions: Integers) -> Words:
    """A random word for each position: SplitMix64 at that position of its stream."""
    return mix_words(mix_words(positions.astype(np.uint64) * np.uint64(_GAMMA) + key) ^ key)


class Sequence:
    """No shuffling."""

    def at(self, positions: Integers) -> Integers:
        """The positions themselves."""
        return positions


class Sorted:
    """The samples sorted by random keys; 8 bytes a sample."""

    def __init__(self, key: np.uint64, length: int) -> None:
        self._order = np.argsort(_hashed(key, np.arange(length)), kind="stable")

    def at(self, positions: Integers) -> Integers:
        """Looked up."""
        return self._order[positions]


class Feistel:
    """A permutation of ``range(length)`` that needs no memory."""

    ROUNDS = 12

    def __init__(self, key: np.uint64, length: int) -> None:
        bits = max((length - 1).bit_length(), 2)
        self._length = length
        self._low = np.uint64(bits // 2)
        self._low_mask = np.uint64((1 << bits // 2) - 1)
        self._high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        self._keys = _hashed(key, np.arange(self.ROUNDS))

    def at(self, positions: Integers) -> Integers:
        """Computed; on average less than two walks a position."""
        words = self._network(positions.astype(np.uint64))
        outside = np.flatnonzero(words >= self._length)
        while outside.size:
            words[outside] = self._network(words[outside])
            outside = outside[words[outside] >= self._length]
        return words.astype(np.int64)

    def _network(self, words: Words) -> Words:
        low, high = words & self._low_mask, words >> self._low
        for number, key in enumerate(self._keys):
            if number % 2 == 0:
                high = high ^ (mix_words(low + key) & self._high_mask)
            else:
                low = low ^ (mix_words(high + key) & self._low_mask)
        joined: Words = (high << self._low) | low
        return joined


class WeightedDraws:
    """Draws with replacement, by the inverse of the cumulated weights; 8 bytes a weight."""

    def __init__(self, key: np.uint64, weights: NDArray[np.float64]) -> None:
        self._key = key
        self._cumulated = np.cumsum(weights)

    def at(self, positions: Integers) -> Integers:
        """Computed: position ``p`` has its own random number."""
        uniform = (_hashed(self._key, positions) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        found = np.searchsorted(self._cumulated, uniform * self._cumulated[-1], side="right")
        last: Integers = np.minimum(found, len(self._cumulated) - 1)
        return last


class WeightedOrder:
    """Draws without replacement: the samples sorted by ``-log(u) / weight``.

    (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", Inf. Process. Lett. 97, 2006.)
    """

    def __init__(self, key: np.uint64, weights: NDArray[np.float64], count: int) -> None:
        uniform = ((_hashed(key, np.arange(len(weights))) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        with np.errstate(divide="ignore"):
            self._order = np.argsort(-np.log(uniform) / weights, kind="stable")[:count]

    def at(self, positions: Integers) -> Integers:
        """Looked up."""
        return self._order[positions]


def order_of(seed: int, epoch: int, length: int, shuffle: bool) -> Order:
    """The order of an epoch."""
    if not shuffle:
        return Sequence()
    key = _key(seed, epoch, length)
    return Sorted(key, length) if length <= SORTED_UP_TO else Feistel(key, length)


def weighted_order_of(seed: int, epoch: int, weights: NDArray[np.float64], count: int, replacement: bool) -> Order:
    """The order of an epoch of weighted draws."""
    key = _key(seed, epoch, count, len(weights), int(replacement))
    return WeightedDraws(key, weights) if replacement else WeightedOrder(key, weights, count)
