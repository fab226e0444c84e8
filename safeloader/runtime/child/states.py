"""The states of a worker's generators: in full, or as what they have become since they were known in full."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from safeloader.runtime.child.twister import torch_state, turned

__all__ = ["Advanced", "Base", "States", "in_full"]


class States(NamedTuple):
    """The states of torch's, Python's and numpy's generators; numpy's is None while numpy is not loaded.

    ``own`` are those of the generators that the worker's dataset holds (`own_generators`); None where it has none.
    """

    torch: bytes
    python: Any
    numpy: Any
    own: dict[str, Any] | None = None


class Base(NamedTuple):
    """The words of the three twisters at some moment."""

    torch: bytes
    python: bytes
    numpy: bytes


class Advanced(NamedTuple):
    """The same as `States`, by the words of an earlier moment. Many share one ``base``, which is told once.

    Attributes:
        base: the words then; None only in a message, where it is the last one that was told.
        turns: how often each twister has replaced its words since.
        torch: torch's state without its words.
        python: Python's position, and half a pair of normals or None.
        numpy: numpy's position, whether there is half a pair of normals, and it.
        own: as in `States`.
    """

    base: Base | None
    turns: tuple[int, int, int]
    torch: bytes
    python: tuple[int, float | None]
    numpy: tuple[int, int, float]
    own: dict[str, Any] | None = None

    def in_full(self) -> States:
        """The states themselves."""
        import numpy

        assert self.base is not None
        torch, python, of_numpy = map(turned, self.base, self.turns)
        (python_at, gauss), (numpy_at, has_half, half) = self.python, self.numpy
        key = numpy.frombuffer(of_numpy, "=u4").astype(numpy.uint32)
        return States(
            torch_state(torch, self.torch),
            (3, (*struct.unpack(f"={len(python) // 4}I", python), python_at), gauss),
            {
                "bit_generator": "MT19937",
                "state": {"key": key, "pos": numpy_at},
                "has_gauss": has_half,
                "gauss": half,
            },
            self.own,
        )


def in_full(states: object) -> States | None:
    """States as they are put back and written down; None for what are none."""
    if isinstance(states, Advanced):
        return states.in_full()
    return states if isinstance(states, States) else None
