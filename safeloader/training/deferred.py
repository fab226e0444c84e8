"""The verdict on a step that is read one step later, so that nothing waits for an accelerator.

::

    step 7: norms on the device ──▶ one flag for all ranks ──▶ copy to pinned memory (nobody waits)
    step 8: the same; then the copy of step 7, which has long arrived, is read

The lag is one step on every rank, whatever the accelerator's speed, so that all ranks decide at the same step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from safeloader import torch_private
from safeloader.training import collectives
from safeloader.training.micro import blamed
from safeloader.training.scan import Found, bad_leaves, dense, leaves, look, matches
from safeloader.training.trouble import trouble_in, trouble_in_batch

if TYPE_CHECKING:
    from safeloader.training.glance import Glance
    from safeloader.training.micro import Micro
    from safeloader.training.trouble import Trouble
    from safeloader.training.watched import Watched

__all__ = ["HINT", "Deferred", "is_possible", "launched", "on_accelerator"]

HINT = (
    "the optimizer has stepped with it since, as nothing waits for the accelerator: go on from the newest good "
    "checkpoint, safeloader.training.resume(store, ...); FiniteGuard(..., wait_for_device=True) knows before the step"
)


def is_possible(device: str) -> bool:
    """Whether numbers can be read later: those of CUDA devices, with one rank or NCCL."""
    return device == "cuda" and collectives.can_flag_on_device()


def on_accelerator(batch: Any) -> bool:
    """Whether looking at a batch would wait for an accelerator."""
    return any(isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu" for _, leaf in leaves(batch))


class Later:
    """Numbers on their way to the main memory.

    Args:
        numbers: Each finite if all is well.
        bad: This rank has found something by other means.
    """

    def __init__(self, numbers: list[torch.Tensor], bad: bool) -> None:
        device = next((one.device for one in numbers if one.device.type != "cpu"), torch.device("cpu"))
        on_device = [one.detach().to(device, torch.float64, non_blocking=True) for one in numbers]
        values = torch.stack(on_device) if on_device else torch.zeros(0, dtype=torch.float64, device=device)
        wrong = (~torch.isfinite(values)).any() if not bad else torch.ones((), dtype=torch.bool, device=device)
        flag = collectives.flag_on_device(wrong)
        self._told, self._arrived = torch_private.sent_to_cpu(torch.cat([flag.to(torch.float64).reshape(1), values]))

    def read(self) -> tuple[bool, list[float]]:
        """(whether any rank found something, the numbers of this rank)."""
        self._arrived()
        flag, *values = self._told.tolist()
        return bool(flag), values


@dataclass
class Deferred:
    """A step whose verdict is still to be read.

    Attributes:
        step: Its number.
        glance: What was looked at.
        later: Its norms; after them those of what batches hold on the device.
        since: The batches that made it.
        troubles: What was found in main memory.
        loss: The loss.
        values: The norms, once they were read.
    """

    step: int
    glance: Glance
    later: Later
    since: list[Micro]
    troubles: list[Trouble]
    loss: torch.Tensor | None
    values: list[float] = field(default_factory=list)

    def read(self) -> bool:
        """Whether any rank found something in this step."""
        bad, self.values = self.later.read()
        return bad

    def bad(self, kind: str) -> dict[str, torch.Tensor]:
        """What of one kind had a norm that was not finite, as it is now; a norm may have overflowed."""
        named = zip(self.glance.names, self.glance.parts, self.values, strict=False)
        return {name: part for (what, name), part, value in named if what == kind and not math.isfinite(value)}

    def troubles_of(
        self, watched: Watched, batch_patterns: tuple[tuple[str, ...], tuple[str, ...]], left_to_scaler: bool | None
    ) -> list[Trouble]:
        """What was wrong, in the order of cause: batch, weights, loss, gradients.

        Args:
            watched: Weights as they are now: what spoilt them shows there for good.
            batch_patterns: Of what may be infinite, and may be NaN, in a batch.
            left_to_scaler: Whether gradients alone are left to a GradScaler; None: there is none.
        """
        number, indices, more = blamed(self.since)
        found = list(self.troubles)
        for one in self.since:
            bad_ones = [] if one.on_device is None else bad_leaves(one.on_device, *batch_patterns)
            if bad_ones:
                found.append(trouble_in_batch(bad_ones, self.step, one.number, one.indices))
        now = [bad for name, tensor in watched.state() if (bad := look(name, tensor)) is not None]
        before = [bad for bad in now if bad.name in self.bad("weights")]
        loss = None if self.loss is None else look("loss", self.loss)
        gradients = [Found(name, 0, 0, 0) for name in self.bad("gradients")]
        if not (found or loss) and (not now if left_to_scaler is None else left_to_scaler):
            gradients = []  # the norm overflowed: else the weights would show it by now
        causes = {"weights are": before, "loss is": [loss] if loss else [], "gradients are": gradients}
        for what, bads in causes.items():
            if bads:
                kind, text = what.split()[0], f"the {what} not finite{more}"
                found.append(trouble_in(kind, bads, text, self.step, number, indices))
        return found


def launched(
    step: int, seen: Glance, since: list[Micro], troubles: list[Trouble], loss: torch.Tensor | None,
    batch_patterns: tuple[tuple[str, ...], tuple[str, ...]],
) -> Deferred:  # fmt: skip
    """Have a step looked at; nothing waits."""
    numbers = torch_private.norms([dense(part) for part in seen.parts]) if seen.parts else []
    for one in since:
        numbers += [] if one.on_device is None else _norms_of(one.on_device, *batch_patterns)
    return Deferred(
        step, seen, Later(numbers, bool(troubles)), since, troubles, None if loss is None else loss.detach()
    )


def _norms_of(batch: Any, may_be_infinite: tuple[str, ...], may_be_nan: tuple[str, ...]) -> list[torch.Tensor]:
    """A number for each tensor of a batch on an accelerator, there: finite if the tensor is as it should be."""
    found = []
    for name, leaf in leaves(batch):
        if isinstance(leaf, torch.Tensor) and not matches(name or "the batch", may_be_nan):
            if matches(name or "the batch", may_be_infinite):
                found.append(torch.where(torch.isnan(leaf).any(), float("nan"), 0.0))
            else:
                found += torch_private.norms([dense(leaf)])
    return found
