"""The learning rate really in use, against what was meant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from safeloader import codes
from safeloader.training.scan import norms

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

__all__ = ["RateWatch"]

_CLIPPED = 200  # steps whose gradients are looked at
_ALIKE = 5  # with one and the same largest norm, which is no chance


class RateWatch:
    """Compares the rate of each optimizer step with what the configuration says, and tells what differs, once each.

    ::

        watch = RateWatch(optimizer, peak=linear_scaling(0.1, 2048), warm_up=500)

    Args:
        optimizer: Whose steps.
        peak: The highest rate that is meant; or a function of the step that gives the rate of each.
        warm_up: Steps in which the rate rises to it; 0: none is meant.
        group: Which of its groups.
        tolerance: A relative difference that counts as none.
        clip_norm: The norm to which gradients are meant to be clipped. What arrives at the optimizer is looked at in
            the first 200 steps: gradients above it, and gradients that are clipped to less.

    Attributes:
        findings: What was told.
        steps: Steps seen.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, peak: float | Callable[[int], float], warm_up: int = 0,
        group: int = 0, tolerance: float = 0.02, clip_norm: float | None = None,
    ) -> None:  # fmt: skip
        self.findings: list[str] = []
        self.steps: int = 0
        self._peak, self._warm_up, self._group, self._tolerance = peak, warm_up, group, tolerance
        self._clip_norm, self._norms = clip_norm, list[float]()
        self._told: set[str] = set()
        self._built = self._rate_of(optimizer)
        self._handle = optimizer.register_step_pre_hook(self._at_step)

    def remove(self) -> None:
        """Look no longer."""
        self._handle.remove()

    def _rate_of(self, optimizer: torch.optim.Optimizer) -> float:
        return float(optimizer.param_groups[self._group]["lr"])

    def _at_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        rate, step = self._rate_of(optimizer), self.steps
        self.steps += 1
        if self._clip_norm is not None and len(self._norms) < _CLIPPED:
            self._look_at_norm(optimizer, self._clip_norm, step)
        if callable(self._peak):
            if not self._close(rate, meant := float(self._peak(step))):
                self._tell("rate", f"the learning rate of step {step} is {rate:.6g}, and {meant:.6g} was meant")
            return
        if step == 0 and rate != self._built and self._built < rate:
            self._tell(
                "order",
                f"the first step has a learning rate of {rate:.6g}, not the {self._built:.6g} that the schedule begins "
                "with: the scheduler stepped before the optimizer",
            )
        if rate > self._peak * (1 + self._tolerance):
            self._tell("high", f"the learning rate of step {step} is {rate:.6g}, above the {self._peak:.6g} meant")
        if self._warm_up and step == 0 and rate >= self._peak * (1 - self._tolerance):
            text = f"step 0 has the full learning rate {rate:.6g}: the warm-up of {self._warm_up} steps is off"
            self._tell("cold", text)
        if step == self._warm_up and rate < self._peak * (1 - max(self._tolerance, 0.05)):
            text = f"after the warm-up, at step {step}, the learning rate is {rate:.6g}, not {self._peak:.6g}"
            self._tell("low", text)

    def _look_at_norm(self, optimizer: torch.optim.Optimizer, meant: float, step: int) -> None:
        """Gradients that were clipped all have one norm, and none a larger one."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = math.hypot(*norms(gradients))
        if not gradients or not math.isfinite(norm):
            return
        self._norms.append(norm)
        if norm > meant * (1 + self._tolerance):
            self._tell("clip", f"the gradients of step {step} have norm {norm:.6g}: they are not clipped to {meant:g}")
        top = max(self._norms)
        alike = sum(math.isclose(one, top, rel_tol=1e-3) for one in self._norms)
        if alike >= _ALIKE and top < meant * (1 - self._tolerance):
            self._tell("clip", f"the gradients of {alike} steps were clipped to {top:.4g}, and {meant:g} was meant")

    def _close(self, rate: float, meant: float) -> bool:
        return math.isclose(rate, meant, rel_tol=self._tolerance, abs_tol=1e-12)

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.findings.append(text)
            codes.log_warning("SL142", "%s", text)
