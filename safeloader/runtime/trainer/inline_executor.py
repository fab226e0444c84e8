"""The supervisor's commands to workers that the trainer hosts itself, carried out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from safeloader import clock
from safeloader.core import messages as m
from safeloader.notes import in_one_line
from safeloader.runtime.child.worker import Ended
from safeloader.runtime.trainer.inline import InlineBatch, InlineHost, Irreversible, NotEncodable
from safeloader.runtime.trainer.watchdog import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.runtime.child.states import States
    from safeloader.runtime.child.worker_place import WorkerPlace
    from safeloader.runtime.trainer.journal import Key
    from safeloader.runtime.trainer.ports import Parts

__all__ = ["InlineExecutor"]


class InlineExecutor:
    """Acts in this process. Each command is carried out here and now, and may be begun again."""

    def __init__(self, parts: Parts) -> None:
        self._journal = parts.journal
        self._reporter = parts.reporter
        self._inline = InlineHost(parts.spec.config.load, parts.spec, parts.reporter.not_undone)

    def host(self, c: m.HostWorker, place: WorkerPlace, key: Key, again: bool) -> None:
        with self._refusing(c.worker, key, again):
            self._journal.later(key, self._hosted(c.worker, place, c.lenient), again)

    def _hosted(self, worker: int, place: WorkerPlace, lenient: bool) -> m.Event:
        hosted = self._inline.host(place, lenient)
        if hosted is None:
            return m.WorkerReady(m.INLINE, worker, clock.now())
        if (found := hosted.diverged) is not None:
            return m.WorkerDiverged(m.INLINE, worker, clock.now(), found.how, found.at, found.detail)
        if hosted.lost:
            self._reporter.not_restored(worker, hosted.lost)
        return m.WorkerReady(m.INLINE, worker, clock.now(), self._inline.states(worker), hosted.begin, hosted.compared)

    @contextlib.contextmanager
    def _refusing(self, worker: int, key: Key, again: bool) -> Iterator[None]:
        """Tell of what a worker in the trainer was about to do and could not have undone."""
        try:
            yield
        except Irreversible as refused:
            self._journal.later(key, m.InlineRefused(worker, refused.what), again)

    def drop(self, c: m.DropWorker) -> None:
        self._inline.drop(c.worker)

    def resume(self, c: m.ResumeWorker, shared_seed: int | None, told_epoch: int | None, key: Key, again: bool) -> None:
        with self._refusing(c.worker, key, again):
            said = self._inline.resume(c.worker, shared_seed, c.epoch, told_epoch, key)
            states = self._inline.states(c.worker)
            self._journal.later(key, m.WorkerResumed(m.INLINE, c.worker, clock.now(), states, said), again)

    def rewind(self, c: m.RewindWorker, states: States | None, key: Key, again: bool) -> None:
        with self._refusing(c.worker, key, again):
            if lost := self._inline.rewind(c.worker, states):
                self._reporter.not_restored(c.worker, lost)
            self._journal.later(key, m.WorkerResumed(m.INLINE, c.worker, clock.now()), again)

    def load(self, c: m.LoadInline, key: Key, again: bool) -> None:
        inline, taken_at = self._inline, clock.now()
        event: m.Event

        def digest() -> bytes:
            return inline.digest(c.worker)

        try:
            loaded = inline.load(c.worker, c.indices, c.skip, c.timeout, key)
        except Ended:
            event = m.WorkerEnded(m.INLINE, c.task, inline.states(c.worker), clock.now())
        except Irreversible as refused:
            event = m.InlineRefused(c.worker, refused.what)
        except Interrupted as interrupted:
            event = m.InlineInterrupted(c.task, inline.sample(c.worker), interrupted.stack)
        except NotEncodable as failure:
            states = inline.states(c.worker)
            told = InlineBatch(failure.error)
            detail = in_one_line(failure.error)
            event = m.TaskRaised(m.INLINE, c.task, told, "unpicklable", None, states, clock.now(), digest(), detail)
        except Exception as error:
            states, sample = inline.states(c.worker), inline.sample(c.worker)
            held, detail = InlineBatch(error), in_one_line(error)
            event = m.TaskRaised(m.INLINE, c.task, held, "raised", sample, states, clock.now(), digest(), detail)
        else:
            batch = None if loaded.empty else InlineBatch(loaded.batch)
            states = inline.states(c.worker)
            event = m.TaskLoaded(m.INLINE, c.task, batch, 0, states, taken_at, clock.now(), loaded.dropped, digest())
            self._reporter.loaded_here(c.task, c.worker, event.finished_at - taken_at)
        if isinstance(event, m.TaskLoaded):
            self._tell_loaded(c.worker, event, key, again)
        else:
            self._journal.later(key, event, again)

    def _tell_loaded(self, worker: int, event: m.TaskLoaded, key: Key, again: bool) -> None:
        """Tell of a batch; before that whether the dataset has changed, and after it what it says of itself."""
        changed = self._inline.looked
        if changed is not None:
            told = m.WorkerChanged if changed else m.WorkerUnchanged
            self._journal.later(key, told(m.INLINE, worker), again)
        self._journal.later(key, event, again)
        with self._refusing(worker, key, again):
            said = self._inline.said(worker)
            if said is not None:
                self._journal.later(key, m.WorkerMarked(m.INLINE, worker, said), again)
