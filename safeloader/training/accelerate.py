"""The helpers in Hugging Face Accelerate. It is imported here and nowhere else.

::

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    guard = guarded(accelerator, model, optimizer, action="skip_step")   # looks before each optimizer.step()
    saved = parts(accelerator, model=model, optimizer=optimizer, loader=loader)
    resume(store, **saved)
    ...
    store.save(step, **saved)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from accelerate.optimizer import AcceleratedOptimizer
except ImportError as missing:
    raise ImportError("safeloader.training.accelerate needs Accelerate: pip install accelerate") from missing

from safeloader.loader import DataLoader
from safeloader.loader_state import moved_on
from safeloader.training.guard import FiniteGuard

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

__all__ = ["guarded", "parts"]


def guarded(accelerator: Accelerator, model: torch.nn.Module, optimizer: Any, **options: Any) -> FiniteGuard:
    """A FiniteGuard that looks before each step that the prepared optimizer really makes.

    A step that Accelerate leaves out while it accumulates gradients is not looked at. Batches go through
    ``guard.batches(loader)``, as in any loop.

    Args:
        accelerator: Whose model and optimizer they are.
        model: The prepared model.
        optimizer: The prepared optimizer.
        **options: What FiniteGuard takes besides the model.
    """
    guard = FiniteGuard(accelerator.unwrap_model(model), **{"scaler": accelerator.scaler, **options})
    guard.attach(optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer)
    return guard


def parts(accelerator: Accelerator, *, model: Any, loader: Any = None, **others: Any) -> dict[str, Any]:
    """What to give to ``store.save`` and ``resume``: the model without Accelerate's wrappers, its scaler, the loader.

    Args:
        accelerator: Whose they are.
        model: The prepared model.
        loader: The prepared loader: goes on in the middle of its epoch, if ``safeloader.patch()`` came before
            ``prepare``. (With ``num_workers=0`` and a dataset that draws random numbers: only with
            ``Policy(sample_rng=True)``, since Accelerate draws those of the next batch before the present one's step.)
        **others: Optimizer, scheduler, whatever has a state.
    """
    found = {"model": accelerator.unwrap_model(model), **others}
    if accelerator.scaler is not None:
        found["scaler"] = accelerator.scaler
    if loader is not None:
        found["loader"] = _Prepared(loader) if isinstance(loader, DataLoader) else loader
    return found


class _Prepared:
    """A prepared loader, which fetches one batch ahead of the one that it hands out.

    It keeps the state that belongs to the batch handed out, but takes it before that batch's step: the generators have
    moved on since.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def state_dict(self) -> dict[str, Any]:
        state = {name: value for name, value in self._loader.state_dict().items() if name != "_iterator_finished"}
        return moved_on(self._loader.base_dataloader, state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)
