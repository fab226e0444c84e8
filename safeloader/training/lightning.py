"""The helpers in Lightning: ``Trainer(callbacks=[GuardCallback()], plugins=[SafeCheckpointIO(run="a")])``.

Lightning (``lightning``, or the older ``pytorch_lightning``) is imported here and nowhere else.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safeloader import codes
from safeloader.errors import CheckpointError, NonFiniteError
from safeloader.training import atomic_file, collectives
from safeloader.training.checkpoint import checked_run
from safeloader.training.guard import FiniteGuard
from safeloader.training.safe_types import to_plain, to_values
from safeloader.training.scan import not_finite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safeloader.training.metric import MetricWatch


def _lightning() -> tuple[Any, Any]:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            library = importlib.import_module(name)
            return library.Callback, importlib.import_module(f"{name}.plugins.io").CheckpointIO
        except ImportError:
            continue
    raise ImportError("safeloader.training.lightning needs Lightning: pip install lightning")


_Callback: Any
_CheckpointIO: Any
_Callback, _CheckpointIO = _lightning()

__all__ = ["GuardCallback", "MetricCallback", "SafeCheckpointIO"]


class GuardCallback(_Callback):  # type: ignore[misc, unused-ignore]
    """A FiniteGuard over each batch, and over the loss, gradients and weights before each optimizer step.

    Args:
        **options: What FiniteGuard takes besides the model, such as ``action="skip_step"``.

    Attributes:
        guard: The guard, once fitting has begun.
    """

    guard: FiniteGuard | None

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.guard = None
        self._options = options
        self._loss: torch.Tensor | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the guard."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.guard = FiniteGuard(pl_module, **{"scaler": scaler, **self._options})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Look at the batch. Lightning hands out its own, so under ``skip_step`` it is mended in place."""
        if self.guard is None:
            return
        self._loss = None
        handed_out = self.guard.batch(batch, number=batch_idx, indices=_indices(trainer, batch_idx))
        if handed_out is not batch:
            _mend_in_place(batch, handed_out)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Remember the loss."""
        self._loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Look at the rest. A skipped step finds no gradients, and changes nothing."""
        if self.guard is not None:
            self.guard.allows_step(self._loss, optimizer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Read the verdict of the last step, where it is told one step later."""
        if self.guard is not None:
            self.guard.finish()


def _indices(trainer: Any, batch_idx: int) -> list[Any] | None:
    """The dataset indices of a batch, where a safeloader.DataLoader tells them for a batch of this number."""
    recent = getattr(trainer.train_dataloader, "recent_batches", None)
    for told in reversed(recent() if callable(recent) else []):
        if told.batch == batch_idx:
            found: list[Any] | None = told.indices
            return found
    return None


def _mend_in_place(batch: Any, mended: Any) -> None:
    from safeloader.training.scan import leaves

    for (_, leaf), (_, new) in zip(list(leaves(batch)), list(leaves(mended)), strict=True):
        if isinstance(leaf, torch.Tensor) and leaf is not new:
            leaf.copy_(new)


class MetricCallback(_Callback):  # type: ignore[misc, unused-ignore]
    """A MetricWatch over a logged metric after each validation, and over the gradient norm.

    Args:
        watch: The watch; its state is saved in Lightning's checkpoints.
        monitor: The name under which the metric is logged.
        guard: Whose gradient norms to watch, or None.
        stop: End the fit when the watch says so.
    """

    def __init__(
        self, watch: MetricWatch, monitor: str, *, guard: GuardCallback | None = None, stop: bool = False
    ) -> None:
        super().__init__()
        self.watch = watch
        self._monitor = monitor
        self._guard = guard
        self._stop = stop

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at the metric."""
        if trainer.sanity_checking:
            return
        if self._monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise CheckpointError(f"no metric is logged as {self._monitor!r}; logged: {known}")
        self.watch.update(float(trainer.callback_metrics[self._monitor]), trainer.current_epoch)
        if self._stop and self.watch.should_stop:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the gradient norm."""
        guard = self._guard and self._guard.guard
        if guard is not None and guard.gradient_norm is not None and math.isfinite(guard.gradient_norm):
            self.watch.gradient_norm(guard.gradient_norm, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The watch's."""
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The watch's."""
        self.watch.load_state_dict(state_dict)


class SafeCheckpointIO(_CheckpointIO):  # type: ignore[misc, unused-ignore]
    """Lightning's own checkpoints (ModelCheckpoint, ``trainer.save_checkpoint``), each whole, hashed and finite.

    Args:
        run: The run's name. Another run's checkpoint is refused.
        may_be_infinite: Patterns of tensors in which infinities are meant, such as ``"state_dict.*.mask"``.
    """

    def __init__(self, *, run: str, may_be_infinite: Iterable[str] = ()) -> None:
        super().__init__()
        self.run = checked_run(run)
        self._may_be_infinite = tuple(may_be_infinite)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it, whole or not at all.

        Raises:
            NonFiniteError: weights or optimizer hold NaN or infinity.
            CheckpointError: no space, or something that could not be loaded with ``weights_only``.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        payload = to_plain(checkpoint, "checkpoint")
        self._check_finite(payload, path)
        manifest = {"run": self.run, "torch": torch.__version__, "step": checkpoint.get("global_step", 0)}
        atomic_file.write(path, payload, {**manifest, "format": "lightning"})

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read it, if every byte is as it was written, all of it is finite, and it belongs to this run."""
        path = Path(path)
        _, payload = atomic_file.read(path, lambda manifest: self._check_run(manifest, path))
        self._check_finite(payload, path)
        values: dict[str, Any] = to_values(payload)
        return values

    def remove_checkpoint(self, path: Any) -> None:
        """Remove its file."""
        Path(path).unlink(missing_ok=True)

    def latest_good(self, folder: str | Path) -> Path | None:
        """The newest good checkpoint in a folder and those below it, for ``trainer.fit(..., ckpt_path=...)``.

        Damaged files and those of other runs are passed over and told to the log. All ranks get the same.
        """

        def walk() -> Path | None:
            found = [path for path in Path(folder).rglob("*.ckpt") if path.is_file()]
            for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
                try:
                    self.load_checkpoint(path)
                except (CheckpointError, NonFiniteError) as error:
                    codes.log_warning("SL144", "passed over: %s: %s", path.name, error.what)
                else:
                    return path
            return None

        return collectives.first_does(walk)

    def _check_run(self, manifest: dict[str, Any], path: Path) -> None:
        if manifest.get("run") != self.run:
            raise CheckpointError(f"it belongs to run {manifest.get('run')!r}, not to {self.run!r}", path=str(path))

    def _check_finite(self, payload: dict[str, Any], path: Path) -> None:
        looked_at = {name: payload.get(name) for name in ("state_dict", "optimizer_states")}
        bad = not_finite(looked_at, self._may_be_infinite)
        if bad:
            shown = "; ".join(str(found) for found in bad[:3])
            raise NonFiniteError(
                f"checkpoint {path.name} is not finite: {shown}", kind="checkpoint", names=[found.name for found in bad]
            )
