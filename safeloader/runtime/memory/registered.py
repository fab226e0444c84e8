"""How others registered that objects of a class are pickled: with `copyreg`, or with multiprocessing, by whose pickler
torch's workers and its sampler's indices go.
"""

from __future__ import annotations

import copyreg
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["reducer_of"]

_FORKING: Any = reduction.ForkingPickler
_OPENS_HANDLES = {"torch.multiprocessing.reductions", "multiprocessing.connection", "multiprocessing.sharedctypes"}
"""These hand over descriptors, from one process that lives to another."""
_SOCKETS = getattr(reduction, "_reduce_socket", None)


def reducer_of(cls: type) -> Callable[[Any], Any] | None:
    """What is registered for exactly this class, if it makes values."""
    how: Any = _FORKING._extra_reducers.get(cls) or copyreg.dispatch_table.get(cls)
    if how is None or how is _SOCKETS or getattr(how, "__module__", "") in _OPENS_HANDLES:
        return None
    found: Callable[[Any], Any] = how
    return found
