"""Torch's own multiprocess iterator, wherever somebody makes one, is safeloader's while torch is patched.

A loader class that was defined before the patch, a loader that exists already, and fastai, whose loader is none of
torch's, all make that iterator by its name. It is made by `safeloader.iterators` instead, with a report for each
loader. So is a subclass of it whose own code touches nothing of torch's queues, and litdata's, which does so only to
begin with another worker. Any other subclass stays as it is, and is named.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

from safeloader import torch_private, unprotected
from safeloader.config import resolve
from safeloader.iterators import ProcessIterator
from safeloader.loader_state import LoaderState, settings_of
from safeloader.single_process import SingleProcessIterator

__all__ = ["begin", "end"]

_ATTRIBUTE = "_safeloader_kept"
_LITDATA = "litdata.streaming.dataloader._StreamingMultiProcessingDataLoaderIter"
_OURS_IN_PART = frozenset({"_shutdown_workers", "_workers"})  # these work (`safeloader.torch_idioms`)
_TO_OVERRIDE = frozenset(
    {"__init__", "__iter__", "__next__", "__len__", "__del__", "__getstate__", "_reset", "_shutdown_workers"}
)
_active = False


class TakenOver(ProcessIterator):
    """Batches from supervised processes for a loader that makes torch's iterator itself.

    Args:
        loader: Anything that torch's own iterator would take.
    """

    def __init__(self, loader: Any) -> None:
        super().__init__(loader, _state_of(loader))


class _Litdata(TakenOver):
    """litdata's: where it goes on from a state, the worker whose turn it was gets the first task."""

    _indexes: list[int]
    _loader: Any

    def _first_turn(self) -> int:
        return self._indexes[0] if self._loader.restore and self._indexes else 0


class _Kept:
    """Hangs on a loader, and ends with it; a copy of the loader, in a worker too, has nothing of it."""

    def __init__(self, loader: Any) -> None:
        self.owner = weakref.ref(loader)
        self.state = LoaderState(None, settings_of(None, loader.timeout), loader.num_workers)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def _state_of(loader: Any) -> LoaderState:
    """What is kept of a loader over its epochs: its own, if it is safeloader's."""
    own = getattr(loader, "_safe", None)
    if isinstance(own, LoaderState):
        return own
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


def _new(cls: Any, *given: Any, **named: Any) -> Any:
    """In place of ``object.__new__`` in torch's base class of iterators: what is made is initialised as what it is."""
    loader: Any = next((one for one in (*given, *named.values()) if hasattr(one, "num_workers")), None)
    if (
        not _active
        or not getattr(loader, "num_workers", 0)
        or issubclass(cls, (ProcessIterator, SingleProcessIterator))
        or resolve().disable
    ):
        return object.__new__(cls)
    made = _stand_in(cls, loader)
    if made is None:
        kind = type(loader)
        unprotected.note(
            f"{kind.__module__}.{kind.__qualname__} over {type(loader.dataset).__qualname__}, {loader.num_workers} "
            "workers",
            f"it iterates by a class of its own ({cls.__module__}.{cls.__qualname__}): give its dataset to "
            "torch.utils.data.DataLoader",
        )
    return object.__new__(made or cls)


def _stand_in(cls: Any, loader: Any) -> type[Any] | None:
    """The class that is made in place of one; None if that stays as it is."""
    if cls is torch_private.MultiProcessingIterator:
        return TakenOver
    if f"{cls.__module__}.{cls.__qualname__}" == _LITDATA:  # its profiles replace torch's loop in the workers
        profiles = getattr(loader, "_profile_batches", False) or getattr(loader, "_profile_cprofile", False)
        return None if profiles else _joined(cls, _Litdata)
    return _joined(cls, TakenOver) if _needs_no_queue(cls) else None


@functools.lru_cache(maxsize=64)
def _joined(cls: type[Any], ours: type[Any]) -> type[Any] | None:
    """Its own code first; what that calls of torch's is ours."""
    try:
        return type(cls.__name__, (cls, ours), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})
    except TypeError:  # a layout or a metaclass that cannot be joined
        return None


@functools.lru_cache(maxsize=64)
def _needs_no_queue(cls: type[Any]) -> bool:
    """Whether a subclass of torch's iterator overrides nothing, and mentions nothing, of what loads there or here."""
    torchs = torch_private.MultiProcessingIterator
    if not issubclass(cls, torchs):
        return False
    methods = {name for name in dir(torchs) if callable(getattr(torchs, name))} - _TO_OVERRIDE - set(dir(object))
    avoided = {*torch_private.queue_names(), *_private_names(ProcessIterator), "_next_data"} - _OURS_IN_PART
    return not any(
        methods.intersection(vars(own)) or avoided.intersection(torch_private.names_in(own))
        for own in cls.__mro__[: cls.__mro__.index(torchs)]
    )


def _private_names(cls: type[Any]) -> set[str]:
    """Attributes that a subclass of torch's base iterator has besides."""
    names = torch_private.names_in(cls) - torch_private.names_in(torch_private.BaseIterator)
    return {name for name in names if name.startswith("_") and not name.startswith("__")} - _TO_OVERRIDE
