"""The one loop: tells the supervisor what happened, carries out what it commands, and sleeps in between.

It sleeps until the next deadline or the first message or death, whichever comes first. The *inbox* makes events of what
processes say, the *executor* carries commands out; this file is what joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from safeloader import clock
from safeloader.core import messages as m
from safeloader.core.supervisor import Supervisor
from safeloader.runtime.memory import codec
from safeloader.runtime.pool.ports import PoolClient
from safeloader.runtime.shadow.trainer_side import ShadowProcesses
from safeloader.runtime.trainer.executor import Executor
from safeloader.runtime.trainer.inbox import Inbox
from safeloader.runtime.trainer.journal import Journal
from safeloader.runtime.trainer.planner import Planner
from safeloader.runtime.trainer.ports import Consumer, Parts
from safeloader.runtime.trainer.process import Process
from safeloader.runtime.trainer.process_handle import ProcessTable
from safeloader.runtime.trainer.reporting import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safeloader.core.policy import CoreSettings
    from safeloader.observe.recorder import Recorder
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.pool.shared_pool import SharedPool
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.start.prestarted import Prestarted
    from safeloader.runtime.start.template import Templates
    from safeloader.runtime.trainer.fork_views import Views
    from safeloader.runtime.trainer.process_handle import ProcessHandle
    from safeloader.runtime.trainer.shield import Shield

__all__ = ["Loop"]

_LONGEST_SLEEP = 3600.0


class _Loader(Consumer, PoolClient, Protocol):
    """Whose loop it is: its driver."""

    shield: Shield
    views: Views

    def listens(self) -> bool:
        """Whether what processes say is wanted."""


class Loop:
    """Runs one loader's processes, in the thread that asks.

    Args:
        loader: whose they are.
        launcher: how they come to be.
        settings: what policy wants.
        recorder: where faults are told.
        finish: turns a batch into what the consumer gets (pinning), or None.
        prestarted: processes that were started beforehand; they go first.
        shared_pool: the pool whose processes it uses; None for processes of its own.
    """

    def __init__(
        self,
        loader: _Loader,
        launcher: Launcher,
        settings: CoreSettings,
        recorder: Recorder,
        finish: Callable[[Any], Any] | None,
        prestarted: Prestarted | None,
        shared_pool: SharedPool | None,
    ) -> None:
        self._loader = loader
        self._templates = _templates(launcher, loader.spec) if shared_pool is None else None
        self._source, self._failback = self._templates or launcher, launcher.failback
        self._prestarted = prestarted
        self._shared_pool = shared_pool
        self._views = loader.views
        self._shield = shield = loader.shield
        self.processes = ProcessTable()
        self.journal = journal = Journal(Supervisor(settings), shield)
        self.planner = Planner(journal, shield)
        self.reporter = Reporter(journal, launcher, recorder, self.processes.pid_of)
        self.shadows = ShadowProcesses(self.processes, journal.do_and_tell, self.reporter.shadowed)
        parts = Parts(
            journal, shield, self.processes, self.shadows, self._start, self._relieved, launcher, loader.spec,
            loader.arena, self.reporter,
        )  # fmt: skip
        self._inbox = Inbox(parts)
        self.executor = Executor(parts, self._inbox, self.planner, loader, loader.views, finish)
        journal.connect(self._inbox.events, self.executor.execute)
        if shared_pool is not None:
            shared_pool.join(loader)
            if shared_pool.standbys.descriptor >= 0:
                self.processes.listen(
                    shared_pool.standbys.descriptor, shared_pool, lambda shared_pool: shield.do(shared_pool.notice)
                )

    @property
    def supervisor(self) -> Supervisor:
        return self.journal.supervisor

    def wait(self) -> None:
        """Sleep until something is due or is heard, and see to it."""
        self._loader.due = deadline = self.journal.supervisor.next_deadline()
        if self._shared_pool is not None:
            deadline = min(deadline, self._shared_pool.next_deadline(self._loader))
            self.hurry(True)
        self.look(min(max(deadline - clock.now(), 0.0), _LONGEST_SLEEP))
        if self._shared_pool is not None:
            self._shared_pool.look_after_others(self._loader)
            if self._shared_pool.standbys.has_losses:
                self._shield.do(self._tell_losses)

    def hurry(self, somebody_waits: bool) -> None:
        """Let a pool's processes know whether somebody waits: they go on with that first."""
        if self._shared_pool is not None:
            for process in self.processes.values():
                process.page.wait(somebody_waits)

    def _tell_losses(self) -> None:
        for loss in self._shared_pool.standbys.losses() if self._shared_pool is not None else ():
            self.reporter.standby_lost(loss)

    def look(self, seconds: float) -> None:
        """Hear everything there is to hear, waiting at most ``seconds`` for the first thing."""
        self.processes.hear(seconds, self._loader.listens)
        if self.journal.inbox:
            self.journal.run()
        if self.journal.supervisor.next_deadline() <= clock.now():
            self.tell(m.ClockAdvanced())

    def look_for_stopped(self) -> None:
        """Look for processes that somebody stopped."""
        self._shield.do(self.executor.inspect_stopped)
        self.journal.run()

    def hear_again(self) -> None:
        """What processes said may have been read, and not been understood."""
        for process in list(self.processes.values()):
            self._inbox.hear(process)

    def tell(self, event: m.Event) -> None:
        """Tell an event, carry out the commands, and whatever follows from that, in order."""
        if self._views.have_come_back:
            self._views.tell_free(self._leases_returned)
        self.journal.inbox.append(event)
        self.journal.run()

    def _leases_returned(self, leases: Sequence[m.Lease]) -> None:
        self.journal.inbox.extend(map(m.LeaseReturned, leases))

    # ------------------------------------------------------------ processes

    def _start(self, number: int, standby: bool, shadow: int | None, failback: bool) -> ProcessHandle:
        """A process of its own, or one that a shadow makes, or a place in one of the pool's."""
        spec, arena = self._loader.spec, self._loader.arena
        if self._shared_pool is not None:
            return self._shared_pool.handle(self._loader, number)
        if shadow is not None:
            return self.shadows.make(shadow, number, arena)
        process = self._prestarted.take() if self._prestarted is not None and not failback else None
        source = self._failback if failback else self._source
        process = process or Process(source, spec.surroundings, spec.modules if standby else ())
        process.join(number, spec, arena)
        return process

    def _relieved(self) -> bool:
        """Only a pool knows that by itself."""
        return self._shared_pool is not None and not self._loader.closed and self._shared_pool.relieves(self._loader)

    # ------------------------------------------------------------ the end

    def leave(self) -> None:
        """This process is a fork of the trainer: the processes are the parent's."""
        for process in self.processes.values():
            process.channel.close()
        self.shadows.leave()

    def close(self) -> None:
        """End all processes that are left, and let go of everything."""
        loader = self._loader
        for process in list(self.processes.values()):
            process.release()
            self.processes.remove(process)
            process.close()
        self.shadows.drop_all()
        if self._shared_pool is not None:
            self._shared_pool.part(loader)
        codec.Decoded.forget(loader.spec.config.token)
        self._views.handed_over()
        if self._templates is not None:
            self._templates.close()
        loader.spec.close()
        loader.arena.close()
        # What these call refers to them and to the loader, which else would wait for the garbage collector.
        for part in (self.journal, self.executor, self._inbox):
            part.close()
        self.executor = self._inbox = self.reporter = self.shadows = self._loader = None  # type: ignore[assignment]


def _templates(launcher: Launcher, payload: Payload) -> Templates | None:
    """Where the processes are forked of one that has read the dataset; None if each is to read it for itself."""
    if not (launcher.forks and payload.is_large):
        return None
    from safeloader.runtime.start.template import Templates

    return Templates(launcher, payload)
