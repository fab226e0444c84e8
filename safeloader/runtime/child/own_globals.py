"""Each worker has globals of its own, also where several of them share a process, or one is in the trainer.

::

    worker A is in            A leaves                      B enters
    module: A's values  ──▶   module: as before any  ──▶    module: B's values
                              worker; A's are kept          (at first copies of those from before any worker)

Values are exchanged, not copied, each time. Only what can be changed in place (containers, arrays, objects of the
user's classes) is copied once, when a worker is set up, so that none changes another's; a cached function is made anew.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from safeloader.runtime.child.copier import Copier
from safeloader.runtime.child.user_globals import is_code, namespaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["OwnGlobals"]

Values = list[dict[str, Any]]


class OwnGlobals:
    """Those of one worker.

    Args:
        roots: its dataset and functions.
        first: the process is there for this worker, so what is there is its own; else it is somebody else's.
        script: in the trainer, variables of the main script as they were sent, with which a worker begins. In a process
            each worker has a main script of its own.
    """

    def __init__(self, roots: Iterable[Any], first: bool, script: Mapping[str, Any] | None = None) -> None:
        found = namespaces(roots)
        self._in_c = [kind for namespace in found for kind in namespace.in_c()]
        self._private = [namespace for namespace in found if script is None and namespace.is_of_script]
        self._namespaces = [namespace for namespace in found if namespace not in self._private]
        now = self._read()
        copier = Copier()
        copies = [copier.copies(values) for values in now]
        for namespace, values in zip(self._namespaces, copies, strict=True):
            if script and namespace.holder is vars(sys.modules["__main__"]):
                values.update((name, script[name]) for name in values.keys() & script.keys())
        self._mine = now if first else copies
        self._outside: Values | None = copies if first else None  # what is there while another is in
        self._entered = first  # ... and all of it is this worker's
        self._left: Values | None = None

    def enter(self) -> None:
        """This worker works now: its values are there."""
        if self._outside is None:
            self._outside = self._read()
            self._put(self._mine)
            self._entered = True

    def leave(self) -> None:
        """Another one works: what was there before is there again. Broken off by an exception, it is to be repeated."""
        if self._outside is None:
            return
        if self._left is None:
            self._left = self._read() if self._entered else self._mine
        self._put(self._outside)
        self._mine, self._left, self._entered, self._outside = self._left, None, False, None

    def values(self) -> list[Any]:
        """What this worker has now, for a digest: without code, but with a word for state of C's that code names."""
        own = self._mine if self._outside is None else self._read()
        own = own + [namespace.read() for namespace in self._private]
        return [{name: value for name, value in values.items() if not is_code(value)} for values in own] + self._in_c

    def _read(self) -> Values:
        return [namespace.read() for namespace in self._namespaces]

    def _put(self, values: Values) -> None:
        for namespace, own in zip(self._namespaces, values, strict=True):
            namespace.put(own)
