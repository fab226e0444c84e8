"""The supervisor's commands, carried out."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from safeloader import clock
from safeloader.core import messages as m
from safeloader.runtime import by_value, system
from safeloader.runtime import protocol as p
from safeloader.runtime.child.states import in_full
from safeloader.runtime.child.worker_place import WorkerPlace
from safeloader.runtime.memory import codec
from safeloader.runtime.trainer.indices import own_copy, pack
from safeloader.runtime.trainer.inline import InlineBatch
from safeloader.runtime.trainer.inline_executor import InlineExecutor
from safeloader.runtime.trainer.ports import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.core.state import AsNew, Redo, State
    from safeloader.runtime.trainer.fork_views import Views
    from safeloader.runtime.trainer.inbox import Inbox
    from safeloader.runtime.trainer.journal import Key
    from safeloader.runtime.trainer.planner import Planner
    from safeloader.runtime.trainer.ports import Consumer, Parts
    from safeloader.runtime.trainer.process_handle import ProcessHandle

__all__ = ["Executor"]


class Executor:
    """Acts for one driver; decides nothing.

    Args:
        parts: what it acts with.
        inbox: listens to processes.
        planner: asks the sampler.
        consumer: gets the batches.
        views: the leases that the consumer's batches hold.
        finish: turns a batch into what the consumer gets (pinning), or None.
    """

    def __init__(
        self,
        parts: Parts,
        inbox: Inbox,
        planner: Planner,
        consumer: Consumer,
        views: Views,
        finish: Callable[[Any], Any] | None,
    ) -> None:
        self._parts = parts
        self._reporter = parts.reporter
        self._send = parts.processes.send
        self._inbox = inbox
        self._planner = planner
        self._consumer = consumer
        self._views = views
        self._finish = finish
        self._inline = InlineExecutor(parts)
        self._shared_seed: int | None = None
        self._told_epoch: int | None = None
        self.begins: dict[int, tuple[int | None, int, int | None]] = {}  # what workers are told when an epoch begins
        self._actions()

    def execute(self, command: m.Command, key: Key, again: bool) -> None:
        """Carry a command out. What comes with every batch is done here and now, and may be begun again; the rest is
        done by the shield, once."""
        usual = self._usual.get(type(command))
        if usual is not None:
            usual(command, key, again)
        elif getattr(command, "process", None) == m.INLINE and type(command) in self._inlined:
            self._inlined[type(command)](command, key, again)
        else:
            self._parts.shield.run(("command", *key), lambda: self._seldom[type(command)](command, key))

    def _actions(self) -> None:
        reporter = self._reporter
        self._usual: dict[type, Callable[[Any, Key, bool], None]] = {
            m.PlanTask: self._planner.plan,
            m.SendTask: self._send_task,
            m.LoadInline: self._inline.load,
            m.Deliver: self._deliver,
            m.DeliverError: self._deliver_error,
            m.DeliverBadSample: lambda c, *_: self._fail_with(lambda: reporter.errors.raise_bad_sample(c)),
            m.EndEpoch: lambda c, *_: self._fail_with(self._end_epoch),
            m.GiveUp: lambda c, *_: self._fail_with(lambda: self._give_up(c)),
            m.GiveState: lambda c, *_: self._consumer.told.append(c),
        }
        self._inlined: dict[type, Callable[[Any, Key, bool], None]] = {
            m.HostWorker: lambda c, *at: self._inline.host(
                c, self._place(c)._replace(redo=self._redo(c.redo, own_copy)), *at
            ),
            m.DropWorker: lambda c, *_: self._inline.drop(c),
            m.ResumeWorker: lambda c, *at: self._inline.resume(c, self._shared_seed, self._told_epoch, *at),
            m.RewindWorker: lambda c, *at: self._inline.rewind(c, in_full(c.to.snapshot), *at),
        }
        self._seldom: dict[type, Callable[[Any, Key], None]] = {
            m.StartProcess: self._start_process,
            m.DropShadow: lambda c, _: self._parts.shadows.drop(c.shadow),
            m.HostWorker: self._host_worker,
            m.DropWorker: lambda c, key: self._send(c.process, key, p.Drop(c.worker)),
            m.ResumeWorker: self._resume_worker,
            m.RewindWorker: lambda c, key: self._send(c.process, key, p.Rewind(c.worker, in_full(c.to.snapshot))),
            m.CancelBefore: lambda c, _: self._with(c.process, lambda process: process.page.cancel_before(c.before)),
            m.SendProbe: self._send_probe,
            m.InspectProcess: self._inspect,
            m.CaptureStacks: lambda c, _: self._with(c.process, self._inbox.await_stacks),
            m.KillProcess: lambda c, _: self._with(c.process, lambda process: process.kill()),
            m.StopProcess: lambda c, _: self._with(c.process, lambda process: process.ask_to_end()),
            m.AbandonProcess: lambda c, _: self._with(c.process, self._abandon),
            m.FreeSlot: lambda c, _: self._parts.arena.free(c.slot),
            m.ReportFault: lambda c, _: reporter.fault(c, self._parts.processes.pid_of(c.process)),
            m.ReportReplay: lambda c, _: reporter.replayed(c),
            m.ReportRung: lambda c, _: reporter.rung(c),
            m.ReportSlow: lambda c, _: reporter.slow(c),
            m.ReportSlowStart: lambda c, _: self._with(
                c.process, lambda process: reporter.slow_start(process, c.seconds)
            ),
            m.ReportSkipped: lambda c, _: reporter.skipped(c),
            m.ReportStay: lambda c, _: reporter.stays(c),
            m.ReportRefused: lambda c, _: reporter.refused(c),
        }

    def close(self) -> None:
        """Nothing is carried out any more: let go of who would do it."""
        for actions in (self._usual, self._inlined, self._seldom):
            actions.clear()

    def new_epoch(
        self, epoch: int, shared_seed: int | None, told_epoch: int | None, drawn: int, state: State | None
    ) -> None:
        """``state``: what is gone on from; workers are set up in its epoch first."""
        self._planner.new_epoch(drawn)
        self._shared_seed, self._told_epoch = shared_seed, told_epoch
        if state is not None:
            self.begins[state.epoch] = shared_seed, state.epoch, told_epoch
            self.begins.update(state.begins)  # type: ignore[arg-type]
        self.begins[epoch] = shared_seed, epoch, told_epoch

    # ------------------------------------------------------------ processes

    def _with(self, number: int, act: Callable[[ProcessHandle], None]) -> None:
        process = self._parts.processes.get(number)
        if process is not None:
            act(process)

    def _start_process(self, c: m.StartProcess, key: Key) -> None:
        try:
            process = self._parts.start(c.process, c.standby, c.shadow, c.failback)
        except OSError as error:
            self._tell(m.ProcessExited(c.process, system.explained(error), None, None, None, None, False))
        else:
            self._inbox.listen(process)
            if process.ready:
                self._reporter.started(process)
                self._tell(m.ProcessReady(c.process))

    def _tell(self, event: m.Event) -> None:
        self._parts.journal.inbox.append(event)

    def _inspect(self, c: m.InspectProcess, key: Key) -> None:
        self._with(c.process, lambda process: self._tell(self._inspected(process)))

    @staticmethod
    def _inspected(process: ProcessHandle) -> m.Event:
        state = process.state()
        elsewhere, there = process.elsewhere(state)
        if process.forfeited():
            return m.ProcessLostElsewhere(process.number)
        task, setup, sample, taken_at, progressed_at = process.page.read()[:5]
        taken_at, progressed_at = clock.at(taken_at), clock.at(max(progressed_at, there))
        return m.ProcessInspected(process.number, task, setup, sample, taken_at, progressed_at, state, elsewhere)

    def inspect_stopped(self) -> None:
        """Tell of processes that somebody stopped, before an epoch waits for them."""
        for process in list(self._parts.processes.values()):
            if process.state() == "T":
                self._tell(self._inspected(process))

    def _abandon(self, process: ProcessHandle) -> None:
        self._parts.processes.remove(process)
        process.close()

    # ------------------------------------------------------------ workers and tasks

    def _place(self, c: m.HostWorker) -> WorkerPlace:
        return WorkerPlace(
            c.worker, c.epoch, c.position, c.ended, in_full(c.epoch_snapshot), in_full(c.snapshot), self._shared_seed,
            self._told_epoch, c.mark and (c.mark.position, c.mark.content, in_full(c.mark.snapshot)), c.replay,
            c.digests, as_new=self._as_new(c.as_new),
        )  # fmt: skip

    def _host_worker(self, c: m.HostWorker, key: Key) -> None:
        replay = [(self._carried(indices), skip) for indices, skip in c.replay]
        place = self._place(c)._replace(replay=replay, redo=self._redo(c.redo, self._carried))
        self._send(c.process, key, p.Host(place))

    def _redo(self, redo: tuple[Redo, ...] | None, given: Callable[[Any], Any]) -> list[tuple[Any, ...]] | None:
        """What is to be done again, with the indices as they are given to who does it."""
        return None if redo is None else [self._done(done, given) for done in redo]

    def _as_new(self, where: AsNew | None) -> tuple[Any, ...] | None:
        return None if where is None else (*self.begins[where.epoch], in_full(where.snapshot), where.ended)

    def _done(self, done: Redo, given: Callable[[Any], Any]) -> tuple[Any, ...]:
        if done.back is not None:
            return None, in_full(done.back.snapshot)
        if done.epoch is not None:
            return True, *self.begins[done.epoch]
        return False, given(done.indices), done.skip, done.digest

    def _resume_worker(self, c: m.ResumeWorker, key: Key) -> None:
        self._send(c.process, key, p.Resume(c.worker, self._shared_seed, c.epoch, self._told_epoch))

    def _send_task(self, c: m.SendTask, key: Key, again: bool) -> None:
        self._send(c.process, key, p.Task(c.worker, c.task, self._carried(c.indices), c.skip, c.lease.slot))

    def _send_probe(self, c: m.SendProbe, key: Key) -> None:
        self._send(c.process, key, p.Probe(c.worker, c.task, self._carried(c.indices), c.positions))

    def _carried(self, indices: Any) -> Any:
        """Indices as they are if they are plain numbers, packed if any interpreter can read them, else by value."""
        if type(indices) is list and (not indices or type(indices[0]) is int):
            return indices
        if type(indices) is int:
            return indices
        try:
            data = pack(indices)
        except Exception:
            data = b"__main__"
        if b"__main__" not in data:
            return p.Packed(data)
        return p.Carried(by_value.dumps(indices, self._parts.spec.classes, what={"indices": indices}))

    # ------------------------------------------------------------ outcomes

    def _deliver_error(self, c: m.DeliverError, *_: Any) -> None:
        error = c.error
        if isinstance(error, InlineBatch):
            self._consumer.here, error = error, error.value
        self._fail_with(lambda: self._reporter.errors.raise_error(c.task, c.worker, error, self._parts.spec.classes))

    def _fail_with(self, act: Callable[[], Any]) -> None:
        if self._consumer.outcome is None:
            self._consumer.outcome = Outcome(None, act)

    def _deliver(self, c: m.Deliver, key: Key, again: bool) -> None:
        consumer, begun = self._consumer, monotonic()
        if again and consumer.outcome is not None:
            self._views.handed_over()
            return
        try:
            batch = self._decode(c)
            if self._finish is not None:
                batch = self._finish(batch)
        except Exception as error:  # say, a class that only the worker can import
            if self._was_interrupted(c):
                raise
            failure = error
            self._fail_with(lambda: self._reporter.errors.raise_undecodable(c.task, failure))
        else:
            if consumer.outcome is None:
                consumer.outcome = Outcome(batch, None)
        self._views.handed_over()
        self._reporter.delivered(c.task, monotonic() - begun)

    def _was_interrupted(self, c: m.Deliver) -> bool:
        """Whether a batch can be decoded, so that what was raised meanwhile came from outside: a signal, say."""
        try:
            self._parts.shield.do(lambda: self._decode(c))
        except Exception:
            return False
        return True

    def _decode(self, c: m.Deliver) -> Any:
        batch: Any = c.batch
        if type(batch) is InlineBatch:
            self._consumer.here = batch
            return batch.value
        stream, place, pieces, nbytes = batch
        lease = c.lease
        if lease is None:
            return codec.decode(stream, pieces, None)
        memory = self._views.anchor(lease, self._parts.arena.map(lease.slot, nbytes).array, nbytes).data
        if place is not None:
            stream = bytes(memory[place[0] : place[0] + place[1]])
        return codec.decode(stream, pieces, memory)

    def _give_up(self, c: m.GiveUp) -> Any:
        try:
            self._reporter.errors.raise_given_up(c)
        finally:
            self._consumer.close()

    def _end_epoch(self) -> Any:
        self._reporter.epoch_ended()
        self._planner.end_epoch()
        raise StopIteration
