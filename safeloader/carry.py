"""How objects of your own classes reach the workers, where pickle knows no way or not a good one.

::

    import safeloader

    safeloader.carry.register(Archive, lambda archive: (Archive, (archive.path,)))

A loader's workers are processes of their own: the dataset is serialised once, and each worker makes its copy. What
`copyreg` and multiprocessing's ``ForkingPickler`` were taught is honoured, too; what is registered here goes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.runtime.handles import table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["register", "unregister"]


def register(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Let objects of a class go to workers as a function of yours says.

    What it makes there is closed (``close()`` or ``release()``, where it has one) when its worker ends.

    Args:
        kind: the class; objects of its subclasses are not meant.
        reduce: called with an object, in the trainer; returns what ``__reduce__`` returns: a tuple of a function, its
            arguments, and perhaps a state.

    Raises:
        TypeError: this is no class, or no function.
        ValueError: the class is registered already, with another function.
    """
    table.register(kind, reduce)


def unregister(kind: type) -> None:
    """Forget what was registered for a class; nothing happens where nothing was."""
    table.unregister(kind)
