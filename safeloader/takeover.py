"""Torch's own multiprocess iterator, wherever somebody makes one, is safeloader's while torch is patched.

A loader class that was defined before the patch, a loader that exists already, and fastai, whose loader is none of
torch's, all make that iterator by its name. It is made by `safeloader.iterators` instead, with a report for each
loader. A subclass of it relies on queues that are not there, so it stays as it is, and is named.
"""

from __future__ import annotations

import weakref
from typing import Any

from safeloader import torch_private, unprotected
from safeloader.config import resolve
from safeloader.iterators import ProcessIterator
from safeloader.loader_state import LoaderState, settings_of
from safeloader.single_process import SingleProcessIterator

__all__ = ["begin", "end"]

_ATTRIBUTE = "_safeloader_kept"
_active = False


class TakenOver(ProcessIterator):
    """Batches from supervised processes for a loader that is not safeloader's.

    Args:
        loader: Anything that torch's own iterator would take.
    """

    def __init__(self, loader: Any) -> None:
        state = _state_of(loader)
        state.starting.without_fork(loader.multiprocessing_context, loader.num_workers, 5)
        super().__init__(loader, state, None, None)


class _Kept:
    """Hangs on a loader, and ends with it; a copy of the loader, in a worker too, has nothing of it."""

    def __init__(self, loader: Any) -> None:
        self.owner = weakref.ref(loader)
        self.state = LoaderState(None, settings_of(None, loader.timeout), loader.num_workers)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def _state_of(loader: Any) -> LoaderState:
    """What is kept of a loader over its epochs."""
    kept = getattr(loader, _ATTRIBUTE, None)
    if isinstance(kept, _Kept) and kept.owner() is loader:
        return kept.state
    try:
        kept = _Kept(loader)
        object.__setattr__(loader, _ATTRIBUTE, kept)
    except (TypeError, AttributeError):  # it has slots, and no room for this
        return LoaderState(None, settings_of(None, loader.timeout), loader.num_workers)
    return kept.state


def begin() -> None:
    """From now on."""
    global _active  # noqa: PLW0603 - one torch in a process
    _active = True
    torch_private.BaseIterator.__new__ = staticmethod(_new)  # type: ignore[method-assign]


def end() -> None:
    """As torch has it. Iterators made meanwhile stay safeloader's."""
    global _active  # noqa: PLW0603
    # __new__ stays, and does nothing: a class whose __new__ was once set and deleted refuses arguments (CPython 25731).
    _active = False


def _new(cls: type[Any], *given: Any, **named: Any) -> Any:
    """In place of ``object.__new__`` in torch's base class of iterators: what is made is initialised as what it is."""
    loader: Any = given[0] if given else named.get("loader")
    if (
        not _active
        or not getattr(loader, "num_workers", 0)
        or issubclass(cls, (ProcessIterator, SingleProcessIterator))
        or resolve().disable
    ):
        return object.__new__(cls)
    if cls is torch_private.MultiProcessingIterator:
        return object.__new__(TakenOver)
    kind = type(loader)
    unprotected.note(
        f"{kind.__module__}.{kind.__qualname__} over {type(loader.dataset).__qualname__}, {loader.num_workers} workers",
        f"it iterates by a class of its own ({cls.__module__}.{cls.__qualname__}): give its dataset to "
        "torch.utils.data.DataLoader",
    )
    return object.__new__(cls)
