"""Stops a NaN at the step in which it appears, and says where it came from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from safeloader import torch_private
from safeloader.training import collectives, deferred, denormals
from safeloader.training.attached import Attached, before_every_step
from safeloader.training.glance import Glance, glance, is_large
from safeloader.training.micro import Micro, blamed, probe, told_by
from safeloader.training.nan_to_num import mended
from safeloader.training.scan import Found, bad_leaves, leaves, look, matches
from safeloader.training.trouble import Trouble, error_of, trouble_in, trouble_in_batch
from safeloader.training.verdicts import Verdicts
from safeloader.training.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

__all__ = ["FiniteGuard"]

_MOST_BATCHES = 1000  # that are kept of one step


class FiniteGuard(Verdicts):
    """Looks at batches, loss, gradients and weights, with one fused check a step.

    ::

        guard = FiniteGuard(model, action="skip_step")
        for images, labels in guard.batches(loader):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            if guard.allows_step(loss):
                optimizer.step()

    What is found first in the order batch, weights, loss, gradients is the cause; the rest follows from it. Looked at
    is what the model has and what its optimizers step, as it is at each step: layers that are unfrozen later, new heads
    and parameter groups, a temperature in the loss. Where several batches make a step, all are named. With
    ``torch.distributed``, all ranks decide the same, by one all-reduce of one number in ``allows_step``.

    Args:
        model: Its parameters, gradients and buffers are looked at.
        action: ``"raise"`` a NonFiniteError; ``"skip_step"``: drop the gradients, so that the optimizer changes
            nothing, and hand out a bad batch with zeros in place of what is not finite, so that running statistics stay
            whole; or ``"warn"``. Weights that are not finite raise under ``"skip_step"`` too: no step mends them.
        scaler: A GradScaler, which skips steps with infinite gradients by itself: it is let, ``most_skips`` times in
            a row. Call ``scaler.unscale_(optimizer)`` before ``allows_step``.
        weights_every: Look at the weights every so many steps; 0 for only when something else is wrong.
        large_every: A model of more than a million parameters has its large tensors read whole every so many steps. In
            the steps between, one row and one column of them is looked at, which shows what backward makes not finite
            in a matrix product; all else, and what somebody wrote into one weight, shows in the next loss or within so
            many steps. 1: always whole.
        wait_for_device: Know before the step whether it is fine, by waiting for the accelerator once a step. By default
            only ``"skip_step"`` does; else what is wrong on a CUDA device is told one step later, and nothing waits.
        denormals_every: Look for denormal numbers every so many steps; 0 for never.
        most_skips: More steps skipped in a row raise.
        optimizer: The optimizer, or several. An optimizer that steps a parameter of the model is found by itself when
            it first steps.
        may_be_infinite: Patterns (as for file names) of buffers, and of places in a batch, in which infinities are
            meant: ``"*.mask"``, ``"[1]"``. A buffer that is infinite when it first appears need not be named.
        may_be_nan: The same for NaN, and for infinities as well: targets that the loss masks.

    Attributes:
        gradient_norm: The 2-norm of all gradients at the last step, as they lay (of a sharded model, of this rank's
            part); None before. Of a large model, at the last step that was read whole; once it has been asked for, that
            is every step.
        steps: Steps looked at.
        skipped: Steps that were skipped.
        troubles: What was found, oldest first; at most the last 1,000.
        denormals: For each tensor with many denormal numbers, their share when that was seen.

    Raises:
        NonFiniteError: a parameter is not finite at the beginning. (Buffers may be: masks of infinities are meant.)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        action: Literal["raise", "skip_step", "warn"] = "raise",
        scaler: Any = None,
        weights_every: int = 1,
        large_every: int = 32,
        wait_for_device: bool | None = None,
        denormals_every: int = 1000,
        most_skips: int = 20,
        optimizer: Any = None,
        may_be_infinite: Iterable[str] = (),
        may_be_nan: Iterable[str] = (),
    ) -> None:
        if weights_every < 0 or denormals_every < 0 or large_every < 1:
            raise ValueError("weights_every and denormals_every are at least 0, large_every at least 1")
        if wait_for_device is False and action == "skip_step":
            raise ValueError('action="skip_step" has to know before the step: it waits for the accelerator')
        self._patterns = tuple(may_be_infinite), tuple(may_be_nan)
        super().__init__(action, most_skips, Watched(torch_private.unwrapped(model), *self._patterns))
        self.scaler = scaler
        self.weights_every = weights_every
        self.denormals_every = denormals_every
        self.large_every = large_every
        self.wait_for_device = wait_for_device
        self._gradient_norm: float | None = None
        self._norm_is_asked_for = False
        self._waiting: deferred.Deferred | None = None
        self.denormals: dict[str, float] = {}
        self._pending: list[Trouble] = []  # of batches since the last step
        self._since: list[Micro] = []  # the batches since the last step
        self._looked_at: set[int] = set()
        for one in optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]:
            if one is not None:
                self._seen.learn(one)
        self._check_beginning()
        before_every_step(self)

    @property
    def gradient_norm(self) -> float | None:
        """See the class."""
        self._norm_is_asked_for = True
        return self._gradient_norm

    def refresh(self) -> None:
        """Look again which parameters and buffers the model has, where they were put there behind torch's back."""
        self._seen.stale = True

    def _check_beginning(self) -> None:
        found = [bad for name, p in self._seen.parameters if (bad := look(name, p)) is not None]
        if found:
            trouble = self._trouble("weights", found, "the model is not finite before the first step")
            if self.action != "warn":
                raise error_of([trouble], self.steps)
            self._warn([trouble], 0)

    # ------------------------------------------------------------ batches

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches, each looked at before it is handed out."""
        for number, batch in enumerate(loader):
            told = told_by(loader)
            yield self.batch(batch, number=number if told is None else told[0], indices=told and told[1])
        self.finish()

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
        if self._since:
            self._since[-1].norms = probe(self._seen)
            del self._since[:-_MOST_BATCHES]
        this = Micro(number, None if indices is None else list(indices))
        self._since.append(this)
        if self._is_deferred() and deferred.on_accelerator(batch):
            this.on_device = batch
            return batch
        found = bad_leaves(batch, *self._patterns)
        if not found:
            return batch
        trouble = trouble_in_batch(found, self.steps, number, this.indices)
        if self.action == "warn":
            self._keep([trouble])
            self._warn([trouble], self.steps)
            return batch
        if self.action == "raise" and collectives.world_size() == 1:
            self._keep([trouble])
            raise error_of([trouble], self.steps)
        self._pending.append(trouble)
        meant = (*self._patterns[0], *self._patterns[1])
        spared = (id(leaf) for name, leaf in leaves(batch) if matches(name or "the batch", meant)) if meant else ()
        return mended(batch, frozenset(spared))

    # ------------------------------------------------------------ steps

    def allows_step(self, loss: torch.Tensor | None = None, optimizer: Any = None) -> bool:
        """Whether the optimizer may step now. Call it between ``backward()`` and ``optimizer.step()``, on all ranks.

        Args:
            loss: The loss of this step, if it is at hand.
            optimizer: The optimizer that is to step, if it is at hand.

        Returns:
            False if the step is to be skipped (the gradients are gone by then).

        Raises:
            NonFiniteError: see the class.
        """
        if optimizer is not None:
            self._seen.learn(optimizer)
        if self.denormals_every and self.steps % self.denormals_every == 0:
            gradients = [(f"{name}.grad", gradient) for name, gradient in self._seen.gradients()]
            denormals.tell_new(self.denormals, [*self._seen.state(), *gradients])
        seen = self._glance(loss)
        if self._is_deferred():
            return self._deferred(seen, loss)
        troubles, self._pending = self._pending, []
        values = seen.norms()
        self._note_norm(seen, values)
        if not all(map(math.isfinite, values)):
            troubles += self._closely(loss, bool(troubles))
        self.steps += 1
        self._since.clear()
        return self._conclude(troubles, self.steps - 1)

    def finish(self) -> None:
        """Read the verdict of the last step, where it is told one step later. ``batches`` does it at its end.

        Raises:
            NonFiniteError: see the class.
        """
        last, self._waiting = self._waiting, None
        if last is not None:
            self._judge(last)

    def _glance(self, loss: torch.Tensor | None) -> Glance:
        parameters = self._seen.parameters
        self._looked_at = {id(parameter) for _, parameter in parameters}
        gradients = [(name, gradient) for name, p in parameters if (gradient := p.grad) is not None]
        weights = []
        if self.weights_every > 0 and self.steps % self.weights_every == 0:
            weights = [(name, p) for name, p in parameters if p.requires_grad] + self._seen.buffers()
        whole = self.steps % self.large_every == 0 or not is_large(parameters)
        return glance(gradients, weights, loss, self.steps, (whole or self._norm_is_asked_for, whole))

    def _note_norm(self, seen: Glance, values: list[float]) -> None:
        norm = seen.norm_of_gradients(values)
        self._left_to_scaler = self.scaler is not None and not math.isfinite(norm)
        if seen.whole:
            self._gradient_norm = norm / self._scale()

    # ------------------------------------------------------------ told one step later

    def _is_deferred(self) -> bool:
        if self.wait_for_device is not None or self.action == "skip_step":
            return self.wait_for_device is False
        return deferred.is_possible(self._seen.device)

    def _deferred(self, seen: Glance, loss: torch.Tensor | None) -> bool:
        this = deferred.launched(self.steps, seen, self._since, self._pending, loss, self._patterns)
        self._pending, self._since = [], []
        self.steps += 1
        before, self._waiting = self._waiting, this
        return True if before is None else self._judge(before)

    def _judge(self, one: deferred.Deferred) -> bool:
        bad = one.read()
        self._note_norm(one.glance, one.values)
        if not bad:
            self._in_a_row = 0
            return True
        left = self._scaler_may_skip() if self._scales() else None
        return self._conclude(one.troubles_of(self._seen, self._patterns, left), one.step, late=True)

    def _scale(self) -> float:
        """By what the gradients are too large: a scaler's scale, where it was not taken out before."""
        if not self._scales():
            return 1.0
        known = self._seen.optimizers()
        scaled = any(not torch_private.is_unscaled(self.scaler, optimizer) for optimizer in known)
        return float(self.scaler.get_scale()) if scaled else 1.0

    def _closely(self, loss: torch.Tensor | None, batch_is_bad: bool) -> list[Trouble]:
        troubles = []
        weights = [bad for name, tensor in self._seen.state() if (bad := look(name, tensor)) is not None]
        if weights:
            troubles.append(self._trouble("weights", weights, "the weights are not finite"))
        bad_loss = None if loss is None else look("loss", loss)
        if bad_loss is not None:
            troubles.append(self._trouble("loss", [bad_loss], "the loss is not finite"))
        wrong = [bad for name, gradient in self._seen.gradients() if (bad := look(name, gradient)) is not None]
        if wrong and (troubles or batch_is_bad or not self._scaler_may_skip()):
            troubles.append(self._trouble("gradients", wrong, "the gradients are not finite"))
        return troubles

    def _scales(self) -> bool:
        return self.scaler is not None and bool(self.scaler.is_enabled())

    def _scaler_may_skip(self) -> bool:
        if not self._scales():
            return False
        self._in_a_row += 1
        return self._in_a_row <= self.most_skips

    def attach(self, optimizer: torch.optim.Optimizer) -> Attached:
        """Look before each ``optimizer.step()`` by itself, for loops that are not yours.

        The loss is not known then; a bad one shows in the gradients. A step with a closure (LBFGS) is looked at when it
        is over: if its first loss, or the weights in the end, are not finite, weights and optimizer are put back.

        Returns:
            A handle; ``handle.remove()`` ends it.
        """
        self._seen.learn(optimizer)
        return Attached(self, optimizer)

    def closure_ended(self, spoilt: bool) -> None:
        """A step with a closure is over; if it was spoilt, weights and optimizer are as before. For `Attached`.

        Raises:
            NonFiniteError: see the class.
        """
        if not spoilt:
            self.allows_step()
            return
        troubles = self._closely(None, False)
        if not troubles:
            nothing = "a step with a closure would have made weights that are not finite"
            troubles = [self._trouble("gradients", [], nothing)]
        self.steps += 1
        self._since.clear()
        self._conclude(troubles, self.steps - 1)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer of this program is about to step: what of it was not looked at is looked at now."""
        if not self.steps or not (self._seen.knows(optimizer) or self._seen.shares(optimizer)):
            return
        self._seen.learn(optimizer)
        new = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in self._looked_at]
        if not new:
            return
        self._looked_at |= {id(parameter) for parameter in new}
        named = [(name, p) for name, p in self._seen.parameters if any(p is one for one in new)]
        wrong = [bad for name, p in named if p.grad is not None and (bad := look(name, p.grad)) is not None]
        troubles = [self._trouble("gradients", wrong, "the gradients are not finite")] if wrong else []
        if self.action == "warn":
            self._keep(troubles)
            self._warn(troubles, self.steps - 1)
        elif not self._scales() and collectives.any_rank(bool(troubles)):
            self._refuse(troubles, self.steps - 1)

    # ------------------------------------------------------------ telling

    def _trouble(self, kind: str, found: list[Found], what: str) -> Trouble:
        batch, indices, more = blamed(self._since)
        return trouble_in(kind, found, what + more, self.steps, batch, indices)
