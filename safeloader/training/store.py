"""Where checkpoints lie: which are kept, which is the newest good one, and whose they are."""

from __future__ import annotations

import contextlib
import math
import platform
import re
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from safeloader import codes
from safeloader.errors import CheckpointError, NonFiniteError
from safeloader.training import atomic_file, collectives, generators
from safeloader.training.checkpoint import Checkpoint, PassedOver, Saved, checked_run, known, refusal
from safeloader.training.parts import kind_of, state_of
from safeloader.training.safe_types import to_plain
from safeloader.training.scan import not_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["CheckpointStore"]

_FORMAT = 1
_FILE = re.compile(r"(?P<run>.+)\.(?P<serial>\d{6,})\.step(?P<step>-?\d+)\.ckpt")


class CheckpointStore:
    """A folder of checkpoints of one run: each whole, hashed, finite, or not there at all.

    With ``torch.distributed``, all ranks make one (on a folder that all of them see) and call its methods together:
    rank 0 writes, and all ranks agree on what is found.

    Args:
        folder: Where the files lie; made if it is not there.
        run: The run's name, such as ``"exp 1, lr=0.1 v1.2"``. Checkpoints of another run are never taken.
        keep_last: How many of the newest are kept, at least 1.
        keep_every: Those whose step is a multiple of it are kept for ever.
        best: ``"max"`` or ``"min"``: the one with the best metric is kept.
        may_be_infinite: Patterns (as for file names) of tensors in which infinities are meant, such as
            ``"model.*.mask"``. NaN is never meant.

    Attributes:
        passed_over: The files that the last search did not take, with the reason of each.

    Raises:
        CheckpointError: an argument is wrong, or the folder cannot be made.
    """

    passed_over: list[PassedOver]

    def __init__(
        self,
        folder: str | Path,
        *,
        run: str,
        keep_last: int = 3,
        keep_every: int | None = None,
        best: Literal["max", "min"] | None = None,
        may_be_infinite: Iterable[str] = (),
    ) -> None:
        self.run: str = checked_run(run)
        if keep_last < 1 or (keep_every is not None and keep_every < 1):
            raise CheckpointError("keep_last and keep_every are at least 1")
        if best not in (None, "max", "min"):
            raise CheckpointError(f'best={best!r}: it is "max", "min" or None')
        self.folder: Path = Path(folder).expanduser().absolute()  # a program may change its directory
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.best = best
        self.may_be_infinite: tuple[str, ...] = tuple(may_be_infinite)
        self.passed_over = []
        collectives.first_does(self._prepare)

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"the folder cannot be made: {error}", path=str(self.folder)) from error
        atomic_file.sweep(self.folder, f"{self.run}.")

    # ------------------------------------------------------------ saving

    def save(
        self,
        step: int,
        *,
        metric: float | None = None,
        loader: Any = None,
        extra: Mapping[str, Any] | None = None,
        **parts: Any,
    ) -> Checkpoint:
        """Save everything that a run needs to go on, and forget what need not be kept any longer.

        The random generators of this process are saved as well.

        Args:
            step: What the program counts (batches, epochs).
            metric: Decides what is best, and is told with the checkpoint.
            loader: Anything with ``state_dict()``; each rank's own is saved.
            extra: Further plain values, such as ``{"epoch": 3}``, and tensors.
            **parts: Whatever has a ``state_dict()``: ``model=``, ``optimizer=``, ``scheduler=``, ``scaler=``, ``ema=``.

        Raises:
            NonFiniteError: a part holds NaN or infinity. Nothing was written.
            CheckpointError: it cannot be written (no space), or holds what could not be loaded again. The older
                checkpoints are untouched.
        """

        def own() -> dict[str, Any]:
            state = None if loader is None else state_of("loader", loader)
            return {"generators": to_plain(generators.capture()), "loader": state}

        def write() -> Checkpoint:
            return self._write(step, metric, dict(extra or {}), parts, each)

        mine = collectives.all_do(own)
        each = collectives.everyones(mine)
        return collectives.first_does(write)

    def _write(
        self, step: int, metric: float | None, extra: dict[str, Any], parts: dict[str, Any], each: list[Any]
    ) -> Checkpoint:
        states = {name: state_of(name, part) for name, part in parts.items()}
        bad = not_finite({**states, "extra": extra}, self.may_be_infinite)
        if bad:
            raise refusal(bad, step)
        if metric is not None and not math.isfinite(metric):
            codes.log_warning("SL146", "the metric of checkpoint %s is %s: it is saved without one", step, metric)
            metric = None
        serial = 1 + max((int(match["serial"]) for _, match in self._files()), default=0)
        found = Checkpoint(
            path=self.folder / f"{self.run}.{serial:06d}.step{int(step)}.ckpt",
            run=self.run,
            step=int(step),
            serial=serial,
            id=uuid.uuid4().hex,
            metric=None if metric is None else float(metric),
            world_size=collectives.world_size(),
            torch=torch.__version__,
            time=time.time(),
            kinds={name: kind_of(part) for name, part in parts.items()},
        )
        manifest = {**asdict(found), "format": _FORMAT, "python": platform.python_version()}
        del manifest["path"]  # a folder may be moved
        payload = {"parts": states, "ranks": each, "extra": to_plain(extra, "extra")}
        try:
            atomic_file.write(found.path, payload, manifest)
        except CheckpointError as error:
            if not atomic_file.is_full(error) or not self._make_room(found):
                raise
            atomic_file.write(found.path, payload, manifest)
        self._prune()
        return found

    def _make_room(self, coming: Checkpoint) -> bool:
        """Remove what would be removed once this one is written, but never the newest good one. True if that is any."""
        good = next((c for c in self.checkpoints() if self._is_good(c)), None)
        rest = [c for c in self._superfluous([coming, *self.checkpoints()]) if good is not None and c != good]
        for found in rest:
            codes.log_warning(
                "SL147",
                "the disk is full: %s is removed before the next checkpoint is written",
                found.path.name,
            )
            with contextlib.suppress(OSError):
                found.path.unlink()
        return bool(rest)

    def _is_good(self, found: Checkpoint) -> bool:
        try:
            self.load(found)
        except (CheckpointError, NonFiniteError):
            return False
        return True

    def _prune(self) -> None:
        """Remove what nobody asked to keep; of this run alone. Damaged files neither count nor go."""
        for found in self._superfluous(self.checkpoints()):
            with contextlib.suppress(OSError):
                found.path.unlink()

    def _superfluous(self, mine: list[Checkpoint]) -> list[Checkpoint]:
        keep = mine[: self.keep_last]
        if self.keep_every is not None:
            keep += [found for found in mine if found.step % self.keep_every == 0]
        keep += self._by_metric(mine)[:1]
        return [found for found in mine if found not in keep]

    def _by_metric(self, those: list[Checkpoint]) -> list[Checkpoint]:
        """Those with a metric, best first; of equals the newest."""
        if self.best is None:
            return []
        sign = -1.0 if self.best == "max" else 1.0
        return sorted((c for c in those if c.metric is not None), key=lambda c: sign * (c.metric or 0.0))

    # ------------------------------------------------------------ finding

    def _files(self) -> list[tuple[Path, re.Match[str]]]:
        """All that looks like a checkpoint, of whichever run, newest first."""
        try:
            found = [(path, match) for path in self.folder.iterdir() if (match := _FILE.fullmatch(path.name))]
        except OSError as error:
            raise CheckpointError(f"the folder cannot be read: {error}", path=str(self.folder)) from error
        return sorted(found, key=lambda item: int(item[1]["serial"]), reverse=True)

    def checkpoints(self) -> list[Checkpoint]:
        """This run's, newest first, as far as their files are complete. Their content is not looked at."""
        found = []
        for path, match in self._files():
            if match["run"] == self.run:
                with contextlib.suppress(CheckpointError):
                    one = known(path, atomic_file.read_manifest(path))
                    if one.run == self.run:
                        found.append(one)
        return found

    def latest_good(self) -> Checkpoint | None:
        """The newest checkpoint of this run that is complete, as it was written, and finite; None if there is none.

        Those that are not are told to the log, and kept in `passed_over`.
        """
        return self._first_good(lambda: [path for path, _ in self._files()])

    def best_good(self) -> Checkpoint | None:
        """As `latest_good`, in the order of the metric."""
        return self._first_good(lambda: [found.path for found in self._by_metric(self.checkpoints())])

    def _first_good(self, paths: Callable[[], list[Path]]) -> Checkpoint | None:
        def walk() -> tuple[Checkpoint | None, list[PassedOver]]:
            passed_over: list[PassedOver] = []
            for path in paths():
                try:
                    return self.load(path).checkpoint, passed_over
                except (CheckpointError, NonFiniteError) as error:
                    passed_over.append(PassedOver(path, error.what))
                    codes.log_warning("SL144", "passed over: %s", passed_over[-1])
            return None, passed_over

        found, self.passed_over = collectives.first_does(walk)
        return found

    def load(self, which: Checkpoint | str | Path) -> Saved:
        """Read a checkpoint, on this rank alone.

        Args:
            which: a checkpoint of this store, or a path.

        Returns:
            The checkpoint with its content; tensors lie on the CPU.

        Raises:
            CheckpointError: it is damaged, of another run, or of a later safeloader.
            NonFiniteError: it holds NaN or infinity.
        """
        path = which.path if isinstance(which, Checkpoint) else Path(which)

        def check(manifest: dict[str, Any]) -> None:
            if manifest.get("format") != _FORMAT:
                raise CheckpointError(f"its format is {manifest.get('format')}, not {_FORMAT}", path=str(path))
            if manifest.get("run") != self.run:
                raise CheckpointError(
                    f"it belongs to run {manifest.get('run')!r}; this store is of run {self.run!r}",
                    path=str(path),
                    hint=f'CheckpointStore(..., run="{manifest.get("run")}") if that run is meant',
                )

        manifest, payload = atomic_file.read(path, check)
        found = known(path, manifest)
        shapes = {"parts": dict, "ranks": list, "extra": dict}
        if not isinstance(payload, dict) or not all(isinstance(payload.get(n), kind) for n, kind in shapes.items()):
            raise CheckpointError("its content is not that of a checkpoint", path=str(path))
        if not payload["ranks"] or not all(
            isinstance(one, dict) and {"generators", "loader"} <= set(one) for one in payload["ranks"]
        ):
            raise CheckpointError("its content is not that of a checkpoint: its ranks", path=str(path))
        bad = not_finite({**payload["parts"], "extra": payload["extra"]}, self.may_be_infinite)
        if bad:
            raise refusal(bad, found.step)
        return Saved(found, payload["parts"], payload["ranks"], payload["extra"])
