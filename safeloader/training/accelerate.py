"""The helpers in Hugging Face Accelerate. It is imported here and nowhere else.

::

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    guard = guarded(accelerator, model, optimizer, action="skip_step")   # looks before each optimizer.step()
    resume(store, **parts(accelerator, model=model, optimizer=optimizer))
    ...
    store.save(step, **parts(accelerator, model=model, optimizer=optimizer))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from accelerate.optimizer import AcceleratedOptimizer
except ImportError as missing:
    raise ImportError("safeloader.training.accelerate needs Accelerate: pip install accelerate") from missing

from .guard import FiniteGuard

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


def parts(accelerator: Accelerator, *, model: Any, **others: Any) -> dict[str, Any]:
    """What to give to ``store.save`` and ``resume``: the model without Accelerate's wrappers, and its scaler."""
    found = {"model": accelerator.unwrap_model(model), **others}
    if accelerator.scaler is not None:
        found["scaler"] = accelerator.scaler
    return found
