"""Frameworks that make a new loader of the one they are given: what torch's arguments do not hold is kept.

Accelerate and Ray Train (`safeloader.ray`) take torch's arguments off a loader and make another, with a sampler of
theirs. Policy and name are no arguments of torch's. So their functions are redirected (`safeloader.import_hooks`), and
while one of them works on a loader, a loader that is made inherits from it; nothing is inherited at any other time.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch.utils.data

from safeloader import import_hooks
from safeloader.codes import warn
from safeloader.distributed.elastic import ElasticDistributedSampler
from safeloader.resume import joint_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safeloader.config import Policy

__all__ = ["being_rebuilt", "inherited", "rebuilding", "watch_accelerate"]

_rebuilt: ContextVar[Any] = ContextVar("safeloader_rebuilt", default=None)


def inherited() -> tuple[Policy | None, str | None]:
    """Policy and name of the loader that a framework is rebuilding right now; else none."""
    loader = _rebuilt.get()
    return getattr(loader, "policy", None), getattr(loader, "name", None)


@contextmanager
def rebuilding(loader: Any) -> Iterator[None]:
    """Within this, a framework makes another loader of this one."""
    token = _rebuilt.set(loader)
    try:
        yield
    finally:
        _rebuilt.reset(token)


def being_rebuilt() -> Any:
    """The loader of which a framework is making another right now; None if none is."""
    return _rebuilt.get()


def watch_accelerate(ours: type[Any]) -> None:
    """Be there when Accelerate makes a loader of another.

    Args:
        ours: safeloader's class of loaders.
    """

    def hook(module: Any) -> None:
        import_hooks.redirect(
            module.prepare_data_loader, lambda make, *given, **named: _preparing(ours, make, given, named)
        )
        import_hooks.redirect(module.skip_first_batches, _skipping)
        import_hooks.redirect(module.DataLoaderAdapter.state_dict, lambda tell, adapter: _telling(ours, tell, adapter))

    import_hooks.when_imported("accelerate.data_loader", hook)


def _preparing(ours: type[Any], make: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """In place of ``accelerate.data_loader.prepare_data_loader``."""
    bound = inspect.signature(make).bind(*given, **named)
    loader = bound.arguments["dataloader"]
    if not isinstance(loader, ours):
        return make(*given, **named)
    if torch.utils.data.DataLoader is not ours:  # so `patch()` has not been called
        warn(
            "SL106",
            "Accelerate rebuilds this loader as torch's own DataLoader, which does not survive its workers. Call "
            "safeloader.patch() before accelerator.prepare(...): then what it builds is safeloader's, with the same "
            "policy and name",
            stacklevel=5,
        )
    if isinstance(loader.sampler, ElasticDistributedSampler):  # it has dealt the samples to the ranks already
        bound.arguments.update(num_processes=1, process_index=0)
    with rebuilding(loader):
        return make(*bound.args, **bound.kwargs)


def _telling(ours: type[Any], tell: Callable[[Any], Any], adapter: Any) -> Any:
    """In place of ``accelerate.data_loader.DataLoaderAdapter.state_dict``, which gives that of the last batch."""
    state, loader = tell(adapter), adapter.base_dataloader
    if not isinstance(loader, ours) or not joint_checkpoint.is_written():
        return state
    return joint_checkpoint.leaves(state, getattr(loader, "name", None) or "loader")


def _skipping(make: Callable[..., Any], dataloader: Any, *given: Any, **named: Any) -> Any:
    """In place of ``accelerate.skip_first_batches``."""
    with rebuilding(dataloader):
        return make(dataloader, *given, **named)
