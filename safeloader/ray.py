"""Ray Train: ``prepare_data_loader`` for safeloader's loaders.

::

    loader = safeloader.ray.prepare_data_loader(loader)  # in the training function; Ray's own gives the same

Ray makes a loader with a ``DistributedSampler`` of the one it is given, from some of torch's arguments: of a
``batch_sampler`` it makes a loader without batches, and it knows nothing of policy and name. Here Ray decides, as ever,
when a sampler is needed and which; the loader is kept, and only its sampler is another. ``from_dataset`` makes a source
of what Ray Data prepares.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler

from safeloader import import_hooks
from safeloader.errors import SettingsError, StateError
from safeloader.ray_data import from_dataset
from safeloader.rebuilding import being_rebuilt, rebuilding
from safeloader.resume.sampler_state import chain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["from_dataset", "prepare_data_loader", "watch_ray"]


def prepare_data_loader(
    data_loader: Any, add_dist_sampler: bool = True, move_to_device: bool = True, auto_transfer: bool = True
) -> Any:
    """As ``ray.train.torch.prepare_data_loader``: give each rank its share, and move batches to the device.

    What comes back keeps class, policy, name, batch size and all other arguments, and has `state_dict`,
    `load_state_dict`, `set_epoch`, `report` and `close` of the loader. A loader whose sampler or batch_sampler deals to
    ranks already (``DistributedSampler``, ``ElasticDistributedSampler``) keeps it.

    Args:
        data_loader: A ``safeloader.DataLoader``.
        add_dist_sampler: Give each rank its share, where there are several.
        move_to_device: Move each batch to the device that Ray assigned.
        auto_transfer: Copy the next batch to a GPU while the present one is in use.

    Raises:
        SettingsError: A batch_sampler of its own rules the loader, so that Ray's sampler has no place in it.
        ImportError: Ray Train is not installed.
    """
    import ray.train.torch

    return ray.train.torch.prepare_data_loader(data_loader, add_dist_sampler, move_to_device, auto_transfer)


def watch_ray(ours: type[Any]) -> None:
    """Be there when Ray Train makes a loader of another.

    Args:
        ours: safeloader's class of loaders.
    """

    def hook(module: Any) -> None:
        torchs, wrapper = module.DataLoader, module._WrappedDataLoader
        module.DataLoader = lambda **arguments: _with_share(torchs, arguments)
        prepared = type("PreparedDataLoader", (_Prepared, wrapper), {})
        module._WrappedDataLoader = lambda base, *more: (prepared if isinstance(base, ours) else wrapper)(base, *more)
        prepares = getattr(module, "_TorchAccelerator", module).prepare_data_loader
        import_hooks.redirect(prepares, lambda make, *given, **named: _preparing(ours, make, given, named))

    for name in ("ray.train.torch.train_loop_utils", "ray.train.v2.torch.train_loop_utils"):
        import_hooks.when_imported(name, hook)


def _preparing(ours: type[Any], make: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """In place of ``ray.train.torch.prepare_data_loader``."""
    bound = inspect.signature(make).bind(*given, **named)
    loader = bound.arguments["data_loader"]
    if not isinstance(loader, ours):
        return make(*given, **named)
    if any(_deals(one) for one in chain_of(loader.batch_sampler)):
        bound.arguments["add_dist_sampler"] = False
    with rebuilding(loader):
        return make(*bound.args, **bound.kwargs)


class _Prepared:
    """What Ray's wrapper, which moves batches to the device, lacks: the loader's own methods.

    Ray's asks for the next batch before it hands out the present one, so the loader is one batch ahead of the program.
    Only a copy on a stream of its own needs that.
    """

    _dataloader: Any
    _auto_transfer: bool

    def __iter__(self) -> Iterator[Any]:
        if self._auto_transfer:
            return super().__iter__()  # type: ignore[misc,no-any-return]
        return map(self._move_to_device, iter(self._dataloader))  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """The loader's (`safeloader.DataLoader.state_dict`)."""
        if self._auto_transfer:
            raise StateError(
                "Ray Train copies the next batch while the present one is in use, so the loader is one batch ahead",
                hint="prepare_data_loader(loader, auto_transfer=False) where the state is saved in mid-epoch",
            )
        state: dict[str, Any] = self._dataloader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The loader's."""
        self._dataloader.load_state_dict(state_dict)

    def set_epoch(self, epoch: int) -> None:
        """The loader's."""
        self._dataloader.set_epoch(epoch)

    def report(self) -> Any:
        """The loader's."""
        return self._dataloader.report()

    def recent_batches(self) -> Any:
        """The loader's."""
        return self._dataloader.recent_batches()

    def close(self) -> None:
        """The loader's."""
        self._dataloader.close()


def _deals(sampler: Any) -> bool:
    """Whether it gives each rank a share of its own."""
    return hasattr(sampler, "num_replicas") and hasattr(sampler, "rank")


def _with_share(torchs: Any, arguments: dict[str, Any]) -> Any:
    """In place of torch's ``DataLoader`` in Ray's modules: the loader that is rebuilt, with another sampler."""
    loader = being_rebuilt()
    if loader is None:
        return torchs(**arguments)
    sampler, batches = arguments["sampler"], loader.batch_sampler
    if type(batches) is BatchSampler:
        batches = BatchSampler(sampler, batches.batch_size, batches.drop_last)
    elif batches is not None:
        raise SettingsError(
            f"Ray Train would replace the sampler of this loader, which a batch_sampler of its own rules "
            f"({type(batches).__qualname__})",
            where=loader.name or type(loader).__qualname__,
            hint="give each rank its share yourself: ElasticDistributedSampler(dataset, batch_size=...) as "
            "batch_sampler, or prepare_data_loader(loader, add_dist_sampler=False) if it does so already",
        )
    return loader._with_sampler(sampler, batches, arguments["generator"], arguments["worker_init_fn"])
