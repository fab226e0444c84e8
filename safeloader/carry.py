"""How objects of your own classes reach the workers, where pickle knows no way or not a good one.

::

    import safeloader

    safeloader.carry.register(Archive, lambda archive: (Archive, (archive.path,)))

A loader's workers are processes of their own: the dataset is serialised once, and each worker makes its copy. What
`copyreg` and multiprocessing's ``ForkingPickler`` were taught is honoured, too; what is registered here goes first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar, cast

from safeloader.runtime.by_value import memory_files
from safeloader.runtime.handles import table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["register", "to_memory_file", "unregister"]

T = TypeVar("T")


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


def to_memory_file(array: T) -> T:
    """The same array or tensor, in memory that is sent to workers without a copy: the trainer and all workers have one.

    As any array of a dataset, each worker has its own: what it writes, no other sees, and what the trainer writes, no
    worker of a loader that iterates already. Once the trainer has written to it, its contents are copied for workers as
    those of any array are. Let go of the one that was given, or there are two::

        dataset.features = safeloader.carry.to_memory_file(dataset.features)

    Args:
        array: a `numpy.ndarray` of numbers, or a `torch.Tensor` in ordinary memory.

    Returns:
        One with the same contents, which can be written to.

    Raises:
        TypeError: it is something else: a subclass, an array of objects, a tensor with gradients or on a device.
        OSError: there is no memory for it.
    """
    numpy: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
    thing: Any = array
    if numpy is not None and type(thing) is numpy.ndarray and not thing.dtype.hasobject:
        return cast("T", memory_files.array_in_file(thing) if thing.nbytes else thing)
    if torch is not None and type(thing) is torch.Tensor and _is_plain(thing):
        return cast("T", memory_files.tensor_in_file(thing) if thing.numel() else thing)
    raise TypeError(f"only plain arrays and tensors can lie in a memory file, not this {type(thing).__name__}")


def _is_plain(tensor: Any) -> bool:
    torch: Any = sys.modules["torch"]
    odd = tensor.requires_grad or tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return tensor.device.type == "cpu" and tensor.layout is torch.strided and not odd
