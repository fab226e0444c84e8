"""Stops a NaN at the step in which it appears, and says where it came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .. import torch_private
from ..observe.log import logger
from . import denormals, ranks
from .mend import mended
from .scan import Found, bad_leaves, is_float, look, norms
from .trouble import HINTS, Trouble, error_of, trouble_in, trouble_in_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from torch.utils.hooks import RemovableHandle

__all__ = ["FiniteGuard"]

@dataclass
class _Model:
    """What there is to look at; kept, since walking a large model costs more than looking."""

    parameters: list[tuple[str, torch.nn.Parameter]] = field(default_factory=list)
    state: list[tuple[str, torch.Tensor]] = field(default_factory=list)  # what training changes: weights and buffers


class FiniteGuard:
    """Looks at batches, loss, gradients and weights, with one fused check a step.

    ::

        guard = FiniteGuard(model, action="skip_step")
        for images, labels in guard.batches(loader):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            if guard.allows_step(loss):
                optimizer.step()

    What is found first in the order batch, weights, loss, gradients is the cause; the rest follows from it. With
    ``torch.distributed``, all ranks decide the same, by one all-reduce of one number in ``allows_step``.

    Args:
        model: Its parameters, gradients and buffers are looked at.
        action: ``"raise"`` a NonFiniteError; ``"skip_step"``: drop the gradients, so that the optimizer changes
            nothing, and hand out a bad batch with zeros in place of what is not finite, so that running statistics stay
            whole; or ``"warn"``. Weights that are not finite raise under ``"skip_step"`` too: no step mends them.
        scaler: A GradScaler, which skips steps with infinite gradients by itself: it is let, ``most_skips`` times in
            a row. Call ``scaler.unscale_(optimizer)`` before ``allows_step``.
        weights_every: Look at the weights every so many steps; 0 for only when something else is wrong.
        denormals_every: Look for denormal numbers every so many steps; 0 for never.
        most_skips: More steps skipped in a row raise.

    Attributes:
        gradient_norm: The 2-norm of all gradients at the last step, as they lay (of a sharded model, of this rank's
            part); None before.
        steps: Steps looked at.
        skipped: Steps that were skipped.
        troubles: What was found, oldest first; at most the last 1,000.
        denormals: For each tensor with many denormal numbers, their share when that was seen.

    Raises:
        NonFiniteError: a parameter is not finite at the beginning. (Buffers may be: masks of infinities are meant.)
    """

    gradient_norm: float | None

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        action: Literal["raise", "skip_step", "warn"] = "raise",
        scaler: Any = None,
        weights_every: int = 1,
        denormals_every: int = 1000,
        most_skips: int = 20,
    ) -> None:
        if action not in ("raise", "skip_step", "warn"):
            raise ValueError(f'action={action!r}: it is "raise", "skip_step" or "warn"')
        if weights_every < 0 or denormals_every < 0 or most_skips < 1:
            raise ValueError("weights_every and denormals_every are at least 0, most_skips at least 1")
        self.action = action
        self.scaler = scaler
        self.weights_every = weights_every
        self.denormals_every = denormals_every
        self.most_skips = most_skips
        self.gradient_norm = None
        self.steps = self.skipped = 0
        self.troubles: list[Trouble] = []
        self.denormals: dict[str, float] = {}
        self._in_a_row = self._told = 0
        self._model = torch_private.unwrapped(model)
        self._pending: list[Trouble] = []  # of batches since the last step
        self._batch: int | None = None
        self._indices: list[Any] | None = None
        self._seen = _Model()
        self._meant = {name for name, buffer in self._model.named_buffers() if is_float(buffer) and look("", buffer)}
        self.refresh()
        self._check_beginning()

    def refresh(self) -> None:
        """Look again which parameters and buffers the model has. ``batches`` does so each time."""
        parameters = list(self._model.named_parameters())
        buffers = [(n, b) for n, b in self._model.named_buffers() if is_float(b) and n not in self._meant]
        trained = [(n, p) for n, p in parameters if p.requires_grad and is_float(p)]
        self._seen = _Model(trained, [*trained, *buffers])

    def _check_beginning(self) -> None:
        found = [
            bad for name, p in self._model.named_parameters() if is_float(p) and (bad := look(name, p)) is not None
        ]
        if found:
            trouble = self._trouble("weights", found, "the model is not finite before the first step")
            if self.action != "warn":
                raise error_of([trouble], self.steps)
            self._warn([trouble])

    # ------------------------------------------------------------ batches

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches, each looked at before it is handed out."""
        self.refresh()
        for number, batch in enumerate(loader):
            told = _told_by(loader)
            yield self.batch(batch, number=number if told is None else told[0], indices=told and told[1])

    def batch(self, batch: Any, *, number: int | None = None, indices: list[Any] | None = None) -> Any:
        """Look at one batch: tensors, arrays and floats in any nesting.

        Where there are several ranks, ``"raise"`` waits for ``allows_step``, so that all of them raise together.

        Args:
            batch: Best looked at where the loader put it, in main memory.
            number: Its number, for what is said.
            indices: The dataset indices of its samples, where they are known.

        Returns:
            The batch, or its mended copy under ``"skip_step"`` (and ``"raise"`` with several ranks).

        Raises:
            NonFiniteError: under ``"raise"``.
        """
        self._batch, self._indices = number, None if indices is None else list(indices)
        found = bad_leaves(batch)
        if not found:
            return batch
        trouble = trouble_in_batch(found, self.steps, number, self._indices)
        if self.action == "warn":
            self._keep([trouble])
            self._warn([trouble])
            return batch
        if self.action == "raise" and ranks.world_size() == 1:
            self._keep([trouble])
            raise error_of([trouble], self.steps)
        self._pending.append(trouble)
        return mended(batch)

    # ------------------------------------------------------------ steps

    def allows_step(self, loss: torch.Tensor | None = None) -> bool:
        """Whether the optimizer may step now. Call it between ``backward()`` and ``optimizer.step()``, on all ranks.

        Args:
            loss: The loss of this step, if it is at hand.

        Returns:
            False if the step is to be skipped (the gradients are gone by then).

        Raises:
            NonFiniteError: see the class.
        """
        troubles, self._pending = self._pending, []
        if not self._quickly_fine(loss, self.weights_every > 0 and self.steps % self.weights_every == 0):
            troubles += self._closely(loss, bool(troubles))
        if self.denormals_every and self.steps % self.denormals_every == 0:
            named = [*self._seen.state, *((f"{name}.grad", gradient) for name, gradient in self._gradients())]
            denormals.tell_new(self.denormals, named)
        self.steps += 1
        if self.action == "warn":
            self._keep(troubles)
            self._warn(troubles)
            return True
        if ranks.any_rank(bool(troubles)):
            return self._refuse(troubles)
        self._in_a_row = 0 if not self._left_to_scaler() else self._in_a_row
        return True

    def _gradients(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, gradient) for name, p in self._seen.parameters if (gradient := p.grad) is not None]

    def _quickly_fine(self, loss: torch.Tensor | None, with_weights: bool) -> bool:
        watched = [gradient for _, gradient in self._gradients()]
        gradients = len(watched)
        if with_weights:
            watched += [tensor for _, tensor in self._seen.state]
        if loss is not None:
            watched.append(loss)
        values = norms(watched)
        self.gradient_norm = math.hypot(*values[:gradients])
        return all(map(math.isfinite, values))

    def _closely(self, loss: torch.Tensor | None, batch_is_bad: bool) -> list[Trouble]:
        troubles = []
        weights = [bad for name, tensor in self._seen.state if (bad := look(name, tensor)) is not None]
        if weights:
            troubles.append(self._trouble("weights", weights, "the weights are not finite"))
        bad_loss = None if loss is None else look("loss", loss)
        if bad_loss is not None:
            troubles.append(self._trouble("loss", [bad_loss], "the loss is not finite"))
        wrong = [bad for name, gradient in self._gradients() if (bad := look(name, gradient)) is not None]
        if wrong and (troubles or batch_is_bad or not self._scaler_may_skip()):
            troubles.append(self._trouble("gradients", wrong, "the gradients are not finite"))
        return troubles

    def _scaler_may_skip(self) -> bool:
        if self.scaler is None or not self.scaler.is_enabled():
            return False
        self._in_a_row += 1
        return self._in_a_row <= self.most_skips

    def _left_to_scaler(self) -> bool:
        return self.scaler is not None and self.gradient_norm is not None and not math.isfinite(self.gradient_norm)

    def _refuse(self, troubles: list[Trouble]) -> bool:
        """Some rank found something: all of them are here."""
        self._keep(troubles)
        told = ranks.everyones([(trouble.kind, trouble.text) for trouble in troubles])
        elsewhere = [
            f"rank {number}: {text}" for number, items in enumerate(told) if number != ranks.rank() for _, text in items
        ]
        hopeless = any(kind == "weights" for items in told for kind, _ in items)
        self._in_a_row += 1
        too_many = self._in_a_row > self.most_skips
        if self.action == "raise" or hopeless or too_many:
            error = error_of(troubles, self.steps - 1, elsewhere)
            if too_many and not hopeless and self.action != "raise":
                error.hint = f"{self._in_a_row} steps in a row would be skipped: {HINTS['skips']}"
            raise error
        self.skipped += 1
        for _, parameter in self._seen.parameters:
            parameter.grad = None  # every optimizer of torch leaves such a parameter alone
        self._warn(troubles, elsewhere, "; the step is skipped")
        return False

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Look before each ``optimizer.step()`` by itself, for loops that are not yours. Not for steps with a closure.

        The loss is not known then; a bad one shows in the gradients.

        Returns:
            A handle; ``handle.remove()`` ends it.
        """

        def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            self.allows_step()

        return optimizer.register_step_pre_hook(before)

    # ------------------------------------------------------------ telling

    def _trouble(self, kind: str, found: list[Found], what: str) -> Trouble:
        return trouble_in(kind, found, what, self.steps, self._batch, self._indices)

    def _keep(self, troubles: list[Trouble]) -> None:
        self.troubles += troubles
        del self.troubles[:-1000]

    def _warn(self, troubles: list[Trouble], elsewhere: Sequence[str] = (), done: str = "") -> None:
        """Ten times in full, then only at powers of two: a run of a million steps has one log."""
        texts = [*(trouble.text for trouble in troubles[:1]), *elsewhere[:1]]
        if not texts:
            return
        self._told += 1
        if self._told <= 10 or self._told & (self._told - 1) == 0:
            logger.warning("step %d: %s%s (%d so far)", max(self.steps - 1, 0), "; ".join(texts), done, self._told)


def _told_by(loader: Any) -> tuple[int, list[Any]] | None:
    """(number, dataset indices) of the batch that a safeloader.DataLoader gave last, if it can tell."""
    recent = getattr(loader, "recent_batches", None)
    batches = recent() if callable(recent) else []
    if not batches or batches[-1].indices is None:
        return None
    return batches[-1].batch, batches[-1].indices
