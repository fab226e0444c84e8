"""What a FiniteGuard looks at: the model's parameters and buffers as they are now, and all that optimizers step.

A model grows while it trains: layers are unfrozen, heads are added, a mask is registered in the first forward; and an
optimizer may step what belongs to no model (a temperature in the loss). Tensors are therefore fetched where they lie at
each step, and the model is walked again when torch says that anything was registered anywhere.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

from safeloader import codes, torch_private
from safeloader.training.scan import is_float, look, matches

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeGuard

__all__ = ["Watched"]

_everyone: weakref.WeakSet[Watched] = weakref.WeakSet()
_hooked = False


def _something_was_registered(*_: Any) -> None:
    for watched in list(_everyone):
        watched.stale = True


def _hook() -> None:
    global _hooked  # noqa: PLW0603 - torch's hooks are one for all modules of the program
    if not _hooked:
        _hooked = True
        torch_private.on_registration(_something_was_registered)


class Watched:
    """The tensors that training changes.

    Args:
        model: Whose parameters and buffers.
        may_be_infinite: Patterns of names of buffers in which infinities are meant.
        may_be_nan: The same for NaN, and for infinities as well.

    Attributes:
        stale: Something was registered since the model was walked.
    """

    def __init__(self, model: torch.nn.Module, may_be_infinite: Iterable[str], may_be_nan: Iterable[str]) -> None:
        self._model = model
        self._patterns = (*may_be_infinite, *may_be_nan)
        self._nan_patterns = tuple(may_be_nan)
        self._places: list[tuple[str, dict[str, Any], str, bool]] = []  # name, where it lies, under which key, buffer
        self._looked_at: set[str] = set()
        self._meant: set[str] = set()
        self._optimizers: list[weakref.ref[torch.optim.Optimizer]] = []
        self.stale = True
        _hook()
        _everyone.add(self)
        self._walk()
        self._look_at_new(first=True)

    def learn(self, optimizer: Any) -> bool:
        """From now on, all that this optimizer steps is looked at. True if that is news."""
        inner = getattr(optimizer, "optimizer", optimizer)  # of Accelerate, of Lightning
        if any(known() is inner for known in self._optimizers):
            return False
        self._optimizers = [*(known for known in self._optimizers if known() is not None), weakref.ref(inner)]
        return True

    def knows(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it was learned."""
        return any(known() is optimizer for known in self._optimizers)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that were learned."""
        return [inner for known in self._optimizers if (inner := known()) is not None]

    def shares(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it steps a parameter of the model."""
        mine = {id(parameter) for _, parameter in self.parameters}
        return any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"])

    # ------------------------------------------------------------ the tensors

    @property
    def device(self) -> str:
        """The type of device that the model lies on: that of its first parameter."""
        first = next((tensor for _, where, key, _ in self._places if (tensor := where.get(key)) is not None), None)
        return "cpu" if first is None else first.device.type

    @property
    def parameters(self) -> list[tuple[str, torch.Tensor]]:
        """All that can have a gradient and can be NaN: the model's, then those of optimizers alone."""
        if self.stale:
            self._walk()
        found = [(n, t) for n, where, key, buffer in self._places if not buffer and _usable(t := where.get(key))]
        return found + self._of_optimizers(found) if self._optimizers else found

    def _of_optimizers(self, found: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
        seen = {id(tensor) for _, tensor in found}
        more = []
        for known in self._optimizers:
            for number, group in enumerate(getattr(known(), "param_groups", ())):
                for place, parameter in enumerate(group["params"]):
                    if id(parameter) not in seen and _usable(parameter):
                        seen.add(id(parameter))
                        more.append((f"optimizer.param_groups[{number}][{place}]", parameter))
        return more

    def gradients(self) -> list[tuple[str, torch.Tensor]]:
        """The gradients that there are."""
        return [(name, gradient) for name, p in self.parameters if (gradient := p.grad) is not None]

    def buffers(self) -> list[tuple[str, torch.Tensor]]:
        """Buffers that must be finite."""
        if self.stale:
            self._walk()
        places = [place for place in self._places if place[3] and place[0] not in self._meant]
        found = [(name, tensor) for name, where, key, _ in places if _usable(tensor := where.get(key))]
        if any(name not in self._looked_at for name, _ in found):
            self._look_at_new(first=False)
            found = [(name, tensor) for name, tensor in found if name not in self._meant]
        return found

    def state(self) -> list[tuple[str, torch.Tensor]]:
        """What training changes: parameters that it may change, and buffers."""
        return [(name, p) for name, p in self.parameters if p.requires_grad] + self.buffers()

    def drop_gradients(self) -> None:
        """Every optimizer of torch leaves a parameter without gradient alone."""
        for _, parameter in self.parameters:
            parameter.grad = None

    # ------------------------------------------------------------ walking

    def _walk(self) -> None:
        self.stale = False
        self._places, seen = [], set()
        for prefix, module in self._model.named_modules():
            for where, buffer in ((module._parameters, False), (module._buffers, True)):
                for key, tensor in where.items():
                    if tensor is None or id(tensor) not in seen:
                        seen.add(id(tensor))
                        self._places.append((f"{prefix}.{key}" if prefix else key, where, key, buffer))

    def _look_at_new(self, first: bool) -> None:
        """A buffer that holds infinities when it appears is a mask; at the beginning NaN is meant, too."""
        for name, where, key, buffer in self._places:
            if not buffer or name in self._looked_at or not _usable(tensor := where.get(key)):
                continue
            self._looked_at.add(name)
            found = look(name, tensor)
            if matches(name, self._nan_patterns):
                self._meant.add(name)
            elif matches(name, self._patterns):
                self._meant.update([name] if not (found and found.nans) else [])
            elif found is not None and (first or not found.nans):
                self._meant.add(name)
                if not first:
                    codes.log_info("SL141", "%s appeared with infinities: they are taken as meant", found)


def _usable(tensor: torch.Tensor | None) -> TypeGuard[torch.Tensor]:
    """Whether there is one that could hold a NaN. A lazy parameter has no values yet."""
    return tensor is not None and not torch.nn.parameter.is_lazy(tensor) and is_float(tensor)
