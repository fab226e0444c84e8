"""``safeloader.ffcv.Loader``: FFCV's loader, which may fail, hang or crash without ending the run."""

from __future__ import annotations

import itertools
import os
import sys
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from safeloader import codes
from safeloader.config import Policy, resolve
from safeloader.errors import ForkRefusedError, LoaderClosedError, SettingsError
from safeloader.ffcv import arguments
from safeloader.ffcv import pipelines as pipes
from safeloader.ffcv.attributes import FFCVNames
from safeloader.ffcv.backends import Step, steps
from safeloader.ffcv.checking import CheckReport, examine
from safeloader.ffcv.engine import threading_layer
from safeloader.ffcv.epoch import Epoch, Standing
from safeloader.ffcv.ladder import Ladder
from safeloader.ffcv.operation_watch import OperationWatch, frozen, travels
from safeloader.ffcv.order import SampleOrder
from safeloader.ffcv.recipe import EnginePlace, Recipe
from safeloader.ffcv.require import require
from safeloader.ffcv.state import checked_state, state_of
from safeloader.loader_state import LoaderState
from safeloader.recent_batches import Delivered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

    from safeloader.ffcv.ranks import Ranks
    from safeloader.ffcv.resize import ProgressiveResize
    from safeloader.observe import Report

__all__ = ["Loader"]

_counter = itertools.count(1)


class Loader(FFCVNames):
    """Batches of a ``.beton`` file through FFCV's pipelines: the arguments of ``ffcv.loader.Loader`` and a few more.

    Iterate over it once an epoch, as over a DataLoader. A new iteration ends the one before.

    Args:
        fname: The ``.beton`` file. It is looked through before anything is loaded.
        batch_size: Samples a batch.
        num_workers: FFCV's threads; below 1: one a core that this process may use. At most one a core.
        os_cache: Map the file; False: read its pages (for files larger than memory).
        order: ``OrderOption`` of FFCV or its name (``"RANDOM"``), or a TraversalOrder class.
        distributed: Each rank takes its share, as torch's DistributedSampler deals them.
        seed: Seed of order and augmentation; drawn if not given. The same on all ranks.
        indices: Take only these samples.
        pipelines: Operations by field, or a function ``pipelines(size)`` that returns them. Never changed.
        custom_fields: Classes of custom fields by name.
        drop_last: Leave out a last batch that is not full (a line of the log says what that costs).
        batches_ahead: Batches made in advance.
        recompile: Compile anew each epoch.
        policy: What to do about faults.
        name: What logs and reports call this loader ("train", "val").
        resize: Image size of each epoch.
        copy: Batches stay valid for as long as they are kept. False: as in FFCV, only until the next one.

    Raises:
        FFCVMissingError: FFCV is not installed.
        FileNotFoundError: There is no such file.
        BetonError: The file is damaged.
        PipelineError: A pipeline cannot work.
        SettingsError: An argument is out of range, or an epoch would have no batch.
        RanksDisagreeError: Another rank has another file, seed, order or schedule.
    """

    def __init__(
        self,
        fname: str | os.PathLike[str],
        batch_size: int,
        num_workers: int = -1,
        os_cache: bool = True,
        order: Any = "SEQUENTIAL",
        distributed: bool = False,
        seed: int | None = None,
        indices: Sequence[int] | None = None,
        pipelines: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None = None,
        custom_fields: Mapping[str, Any] | None = None,
        drop_last: bool = True,
        batches_ahead: int = 3,
        recompile: bool = False,
        *,
        policy: Policy | None = None,
        name: str | None = None,
        resize: ProgressiveResize | None = None,
        copy: bool = True,
    ) -> None:
        self._arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self._made = False
        self.name: str = name or f"ffcv loader {next(_counter)}"
        self.policy: Policy | None = policy
        self.resize: ProgressiveResize | None = resize
        self.copy: bool = bool(copy)
        self._settings = resolve(policy)
        require()
        batch_size = arguments.count(batch_size, "batch_size")
        num_workers = arguments.workers(num_workers, self.name)
        self._beton = arguments.opened(os.fspath(fname), custom_fields or {})
        self._ranks = self._join(distributed)
        seed = self._seed(seed, distributed)
        taken = arguments.indices(indices, self._beton.num_samples)
        self._order = SampleOrder(
            arguments.order_kind(order, distributed), taken, seed, batch_size, bool(drop_last),
            self._ranks.rank if self._ranks else None, self._ranks.world_size if self._ranks else 1,
        )  # fmt: skip
        if not isinstance(self._order.kind, str):
            self._order = replace(self._order, length=len(self._order.everything(0, self._beton)))
        pipelines = {} if pipelines is None else pipelines
        self._recipe = Recipe(
            self._beton.path, self._beton.print, self._order, frozen(pipelines, self._beton),
            dict(custom_fields or {}), num_workers, bool(os_cache),
            arguments.count(batches_ahead, "batches_ahead"), bool(recompile), seed, bool(copy),
            arguments.cache(self._settings.ffcv_cache),
        )  # fmt: skip
        self._on_cpu = pipes.looked_through(self._recipe.pipelines, self._beton, resize, self.name)
        if self._on_cpu and self._settings.ffcv_mode == "auto":
            self._on_cpu = travels(self._recipe.pipelines, self.name)
        self._operations = OperationWatch(pipelines, self._recipe.pipelines, resize is not None, self.name)
        self._say_what_is_dropped()
        self._state = LoaderState(self.name, self._settings, num_workers)
        self._recorder = self._state.recorder
        self._ladder = Ladder(self._rungs(), self._recipe, self._settings, self._recorder)
        self._epoch, self._batch, self._anew = 0, 0, 0  # where the next iteration begins
        self._iterator: weakref.ref[Epoch] | None = None
        self._standing: Standing | None = None  # of the last iteration, unless the next one begins elsewhere
        self._delivered: deque[tuple[int, int, SampleOrder, set[int]]] = deque(maxlen=16)
        self._orders: dict[tuple[int, SampleOrder], np.ndarray[Any, Any]] = {}
        self._closed = False
        self._owner = os.getpid()
        self._agree()
        self._made = True

    # ------------------------------------------------------------ arguments

    def _join(self, distributed: bool) -> Ranks | None:
        if not distributed:
            return None
        from safeloader.ffcv.ranks import Ranks

        shared = "loader" if self.name.startswith("ffcv loader ") else self.name
        return Ranks(shared, self._settings.startup_timeout)

    def _seed(self, seed: int | None, distributed: bool) -> int:
        if seed is not None:
            return arguments.count(seed, "seed", least=0)
        if distributed:
            codes.log_warning(
                "SL152",
                "%s: no seed was given; all ranks take 0, as torch's DistributedSampler does",
                self.name,
            )
            return 0
        return int(np.random.randint(0, np.iinfo("int32").max))

    def _say_what_is_dropped(self) -> None:
        if not len(self._order):
            raise SettingsError(
                f"an epoch has no batch: {self._order.count} samples, batch_size={self.batch_size}, "
                f"drop_last={self._order.drop_last}",
                where=self.name,
                hint="give a smaller batch_size, or drop_last=False",
            )
        if self._order.dropped:
            codes.log_warning("SL154",
                "%s: drop_last leaves out %d of %d samples in each epoch (batch size %d)",
                self.name, self._order.dropped, self._order.count, self.batch_size,
            )  # fmt: skip

    def _rungs(self) -> tuple[Step, ...]:
        workers = self._recipe.num_workers
        if self._settings.disable:
            return (Step("bare", workers),)
        rungs = steps(self._settings.ffcv_mode, workers, self._settings.fallback, on_cpu=self._on_cpu)
        if rungs[0].kind == "trainer":
            threading_layer(workers)
        return rungs

    def _agree(self) -> None:
        if self._ranks is not None:
            self._ranks.agree("the data", state_of(self._order, self._beton) | {"resize": arguments.told(self.resize)})

    # ------------------------------------------------------------ what a DataLoader has

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order)

    def __iter__(self) -> Epoch:
        self._usable()
        self._leave_iterator()
        self._operations.look()
        if self._ladder.recipe is not self._recipe:
            self._agree()
            self._ladder.use(self._recipe, self._rungs())
        epoch, batch = self._epoch, self._batch
        self._epoch, self._batch = epoch + 1, 0
        size = self._size_of(epoch)
        self._state.begin_pass(self, epoch)
        self._state.epochs = epoch + 1
        iterator = Epoch(self, EnginePlace(epoch, batch, size, anew=self._anew), self._order)
        self._iterator, self._standing = weakref.ref(iterator), iterator.standing
        return iterator

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch: its order, its augmentation, its size.

        Raises:
            SettingsError: It is negative.
        """
        if epoch < 0:
            raise SettingsError(f"there is no epoch {epoch}", where=self.name)
        if self._epoch != epoch:
            self._epoch, self._batch = int(epoch), 0
        if self._iterator is None or self._iterator() is None:
            self._standing = None

    def state_dict(self) -> dict[str, Any]:
        """Where this loader stands: plain values. The batch handed out last counts as done, also after a ``break``."""
        standing = self._standing
        place = (self._epoch, self._batch) if standing is None else standing.position
        order = self._order if standing is None or place[1] == 0 else standing.order
        return {**state_of(order, self._beton), "epoch": place[0], "batch": place[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on where that loader stood, with the batch that was due.

        Args:
            state: What ``state_dict()`` of such a loader returned.

        Raises:
            SettingsError: That loader had another file, seed, batch size, order, or other ranks.
        """
        epoch, batch = checked_state(state, state_of(self._order, self._beton), len(self), self.name)
        self._leave_iterator()
        self._epoch, self._batch, self._standing = epoch, batch, None

    @property
    def _safe(self) -> LoaderState:
        """Where a progress bar finds what it is to know, as with any loader."""
        return self._state

    def recent_batches(self) -> list[Delivered]:
        """The last 16 batches that were delivered, newest last: epoch, number, samples."""
        found, orders = [], self._orders  # kept: it is asked for each batch, and an order of millions takes its time
        self._orders = {}
        for epoch, batch, order, skipped in self._delivered:
            if (key := (epoch, order)) not in self._orders:  # one order object is equal to itself alone
                self._orders[key] = orders[key] if key in orders else order.samples(epoch, self._beton)
            samples = self._orders[key][batch * order.batch_size : (batch + 1) * order.batch_size].tolist()
            found.append(Delivered(epoch, batch, None, [sample for sample in samples if sample not in skipped]))
        return found

    def report(self) -> Report:
        """What happened so far: every fault with its cause, batch, samples, stack and cost."""
        return self._recorder.report()

    def check(self) -> CheckReport:
        """Look through the whole file, JPEG headers included."""
        report = CheckReport(self._beton.path)
        examine(self._beton, report, images=None)
        return report

    def close(self) -> None:
        """End threads and processes, for good. Batches already handed out stay valid (with ``copy=True``)."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        self._leave_iterator()
        self._ladder.close()
        self._recorder.closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing() and vars(self).get("_closed", True) is False:
            self._ladder.close()

    # ------------------------------------------------------------ inside

    def _usable(self) -> None:
        if self._closed:
            raise LoaderClosedError(f"{self.name} was closed", hint="make a new Loader: close() ends one for good")
        if os.getpid() != self._owner:
            raise ForkRefusedError(
                f"{self.name} was made in process {self._owner} and cannot be used in a fork of it",
                hint="make the loader in the process that uses it, and start that with spawn",
            )

    def _leave_iterator(self) -> None:
        iterator = self._iterator() if self._iterator is not None else None
        if iterator is not None:
            iterator.close()
        else:
            self._ladder.stop()
        self._iterator = None

    def _size_of(self, epoch: int) -> int | None:
        if self.resize is None:
            return None
        size = self.resize.size_at(epoch)
        if self._ranks is not None:
            self._ranks.agree("the image size", {"epoch": epoch, "size": size})
        return size
