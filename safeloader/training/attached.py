"""A guard that looks by itself whenever an optimizer steps, with a closure or without."""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import torch

from safeloader import torch_private
from safeloader.training.scan import look

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Attached", "before_every_step"]


class Guard(Protocol):
    """What a guard is asked."""

    action: Any

    def allows_step(self) -> bool:
        """Look before a step."""

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Some optimizer of the program is about to step."""

    def closure_ended(self, spoilt: bool) -> None:
        """A step with a closure is over."""


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()
_hooked = False


def _before_any_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for guard in list(_guards):
        guard.before_step(optimizer)


def before_every_step(guard: Guard) -> None:
    """Have a guard asked before each step of any optimizer, for as long as it lives."""
    global _hooked  # noqa: PLW0603 - torch's hook is one for all optimizers of the program
    _guards.add(guard)
    if not _hooked:
        _hooked = True
        torch_private.on_optimizer_steps(_before_any_step)


class Attached:
    """A guard at an optimizer; ``remove()`` ends it.

    Args:
        guard: The guard.
        optimizer: Whose steps.
    """

    def __init__(self, guard: Guard, optimizer: torch.optim.Optimizer) -> None:
        self._guard = guard
        self._wrong = False
        self._before: tuple[list[torch.Tensor], Any] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._at_start),
            optimizer.register_step_post_hook(self._at_end),
        ]

    def remove(self) -> None:
        """Look no longer."""
        for handle in self._handles:
            handle.remove()

    def _at_start(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            self._guard.allows_step()
            return None
        weights = [p.detach().clone() for p in _parameters(optimizer)]
        self._before = weights, copy.deepcopy(optimizer.state_dict())
        self._wrong = False
        watched = self._watched(closure, optimizer)
        return ((args[0], watched, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": watched})

    def _watched(self, closure: Callable[[], Any], optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
        """The first loss and gradients are those of the weights as they are; later ones belong to a search."""
        first = True

        def evaluated() -> Any:
            nonlocal first
            loss = closure()
            if first:
                first = False
                gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
                self._wrong = any(look("", one) is not None for one in (*gradients, torch.as_tensor(loss).detach()))
            return loss

        return evaluated

    def _at_end(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._before is None:
            return
        (weights, state), self._before = self._before, None
        spoilt = self._wrong or any(look("", p) is not None for p in _parameters(optimizer))
        if spoilt and self._guard.action != "warn":
            with torch.no_grad():
                for parameter, value in zip(_parameters(optimizer), weights, strict=True):
                    parameter.copy_(value)
            optimizer.load_state_dict(state)
        self._guard.closure_ended(spoilt)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
