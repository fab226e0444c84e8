"""What a loader keeps besides torch's attributes: settings, report, iterators, and who watches its consumer."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from torch.utils import data as tud

from safeloader import torch_private
from safeloader.config import Policy, resolve
from safeloader.dist_env import group
from safeloader.distributed.rank_check import RankCheck
from safeloader.distributed.timeouts import GroupTimeout
from safeloader.lengths import length_of
from safeloader.loader_face import LoaderFace
from safeloader.observe import Recorder, stall
from safeloader.observe.status import PassStatus, loader_status
from safeloader.observe.without_workers import faster_without
from safeloader.process_memory import own_memory
from safeloader.resume.keeper import ResumeKeeper
from safeloader.start_method import Starting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.config import Settings
    from safeloader.observe import Report
    from safeloader.observe.stall_place import Stall
    from safeloader.progress_bar import Phase
    from safeloader.runtime.trainer.inspection import Inspection

__all__ = ["LoaderState", "RunningIterator", "moved_on", "settings_of", "speak_through"]

_counter = itertools.count(1)


class RunningIterator(Protocol):
    """An iterator with processes: a `safeloader.iterators.ProcessIterator`. All but `close` is for any thread."""

    @property
    def closed(self) -> bool:
        """True when its processes are gone for good."""

    @property
    def drawing(self) -> bool:
        """True while the sampler is asked for indices."""

    def shared_memory(self) -> int:
        """Bytes of shared memory that its batches take now."""

    def inspect(self) -> Inspection:
        """What its workers are at, and the batch that is due."""

    def close(self) -> None:
        """End its processes."""


class LoaderState:
    """What a loader keeps besides torch's attributes. Its parts see the `face` of it."""

    def __init__(self, name: str | None, settings: Settings, num_workers: int) -> None:
        given, self.name = name, name or f"loader {next(_counter)}"
        self.settings = settings
        self.face = LoaderFace(self.name, settings, Recorder(self.name, settings, workers=num_workers))
        self._pulse = self.recorder.pulse
        self.guard = RankCheck(given, self.face)
        self.group_timeout = GroupTimeout(self.name, settings)
        self.starting = Starting(settings, self.name)
        self.iterators: weakref.WeakSet[RunningIterator] = weakref.WeakSet()
        self.closed = False
        self.told_epoch: int | None = None  # by set_epoch
        self.keeper = ResumeKeeper(self.face)
        self.delivered: deque[tuple[int, int, int | None, object]] = deque(maxlen=16)
        self.shown: Phase | None = None  # of the pass that is under way, under SAFELOADER_PROGRESS
        self.shown_by_hand = False
        self._watched = False
        self._pass: PassStatus | None = None
        self._loader: weakref.ref[Any] | None = None

    @property
    def recorder(self) -> Recorder:
        """Who is told what happens."""
        return self.face.recorder

    @property
    def epochs(self) -> int:
        """The number of the next epoch."""
        return self.face.epochs

    @epochs.setter
    def epochs(self, number: int) -> None:
        self.face.epochs = number

    def speak_through(self, recorder: Any) -> None:
        """Have somebody else told of faults, who shows the passes and watches for stalls himself."""
        self.face.recorder = recorder
        self.shown_by_hand = self._watched = True

    def begin_pass(self, loader: Any, epoch: int) -> None:
        """A consumer begins to iterate: watch it for stalls, and show it where that is asked for."""
        self.epochs = epoch
        self._pass, self._loader = PassStatus.begin(self.recorder), weakref.ref(loader)
        if not self._watched:
            self._watched = True
            stall.watch(self._pulse, self.settings.stall_report, weakref.ref(self))
        if self.settings.chaos is not None:
            from safeloader.fault_tally import in_use

            in_use(self.settings.chaos, getattr(loader, "num_workers", 0))
        if group() is not None:
            from safeloader.distributed.board import publish

            publish(self.settings)
        if self.settings.progress and not self.shown_by_hand:
            from safeloader.progress_bar import Phase

            self.end_pass("left early")
            self.shown = Phase(f"{self.name}, epoch {epoch}", length_of(loader))

    @property
    def loader(self) -> tud.DataLoader[Any]:
        """The loader that is iterated.

        Raises:
            ReferenceError: it is gone.
        """
        loader: tud.DataLoader[Any] | None = None if self._loader is None else self._loader()
        if loader is None:
            raise ReferenceError("the loader is gone")
        return loader

    def end_pass(self, how: str = "") -> None:
        """The pass is over."""
        if self.shown is not None:
            self.shown.end(how)
            self.shown = None

    def asks(self) -> None:
        """A batch is asked for."""
        self._pulse.asks()
        if self.shown is not None:
            self.shown.asks()

    def got(self) -> float:
        """It is there. Returns the seconds that the consumer waited for it."""
        waited = self._pulse.got()
        if self.shown is not None:
            self.shown.got()
        return waited

    def failed(self, error: BaseException) -> None:
        """It does not come."""
        self._pulse.ended()
        self.end_pass("" if isinstance(error, StopIteration) else f"ended by {type(error).__name__}")

    def report(self) -> Report:
        """What happened so far, and what memory is held now."""
        alive = [iterator for iterator in self.iterators if not iterator.closed]
        found = [own_memory(pid) for pid in {post.process for i in alive for post in i.inspect().posts} if pid]
        known = [size for size in found if size is not None]
        told, costs = self.recorder.report(), self.recorder.timings.costs()
        return replace(
            told,
            advice=faster_without(costs) if told.rung and not told.way else "",
            memory=sum(known) if known else None,
            shared_memory=sum(iterator.shared_memory() for iterator in alive),
        )

    def stalled(self, seen: Stall) -> None:
        """Tell of a stall; called by the watch's thread."""
        alive = [iterator for iterator in self.iterators if not iterator.closed]
        if alive and alive[-1].drawing:
            self.recorder.stalled(seen._replace(holder="sampler"))
        else:
            self.recorder.stalled(seen, alive[-1].inspect().due if alive else None)
        if self._pass is not None and seen.busy:
            self.guard.stalled(self.recorder.batches - self._pass.batches)

    def stall_ended(self, seconds: float) -> None:
        """Tell of its end."""
        self.recorder.stall_ended(seconds)

    def ranks_stalled(self, said: str, ranks: Sequence[int], why: str) -> None:
        """Tell what the board of all ranks says; called by the watch's thread."""
        self.recorder.ranks_stalled(said, ranks, why)

    def status(self) -> dict[str, Any]:
        """How this loader stands, for ``safeloader top``; called by the watch's thread."""
        alive = [iterator for iterator in self.iterators if not iterator.closed]
        loader = None if self._loader is None else self._loader()
        shared = sum(iterator.shared_memory() for iterator in alive)
        seen = alive[-1].inspect() if alive else None
        return loader_status(self.recorder, self._pass, self.epochs - 1, _known_length(loader), seen, shared)


def settings_of(policy: Policy | None, timeout: float) -> Settings:
    """The settings in effect for a loader.

    torch's ``timeout`` is a batch timeout that was given as an argument; the policy's own goes first.
    """
    if timeout and timeout > 0 and (policy is None or policy.batch_timeout is None):
        policy = replace(policy or Policy(), batch_timeout=float(timeout))
    settings = resolve(policy)
    return settings if policy is None or policy.pool is None else policy.pool.settings_for(settings)


def speak_through(loader: Any, recorder: Any) -> None:
    """A DataLoader that works inside of another loader tells its faults there (`LoaderState.speak_through`)."""
    loader._safe.speak_through(recorder)


def moved_on(loader: Any, state: dict[str, Any]) -> dict[str, Any]:
    """A DataLoader's state that was taken a while ago, with the generators as they are now."""
    moved: dict[str, Any] = loader._safe.keeper.moved_on(loader, state)
    return moved


def _known_length(loader: Any) -> int | None:
    """Batches of an epoch, of a loader of any kind.

    An iterable dataset is not asked: torch remembers that it was.
    """
    if loader is None or (isinstance(loader, tud.DataLoader) and torch_private.is_iterable(loader)):
        return None
    return length_of(loader)
