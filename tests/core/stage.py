"""A small stage for direct tests: the test says what happens, the stage draws from the sampler and keeps the books."""

from __future__ import annotations

from typing import Any, TypeVar

from safeloader.core import messages as m
from safeloader.core.policy import CoreSettings
from safeloader.core.supervisor import Supervisor

C = TypeVar("C")


class Stage:
    """A supervisor, and all that it commanded so far.

    Args:
        batches: how many the sampler has.
        size: samples in each.
        **settings: of ``CoreSettings``.
    """

    def __init__(self, batches: int = 100, size: int = 4, **settings: Any) -> None:
        settings.setdefault("num_workers", 2)
        settings.setdefault("restart_period", 600.0)
        self.sup = Supervisor(CoreSettings(**settings), story_length=10_000)
        self.batches, self.size = batches, size
        self.now = 0.0
        self.drawn = 0
        self.epoch = -1
        self.commands: list[m.Command] = []
        self.tasks: dict[int, m.SendTask] = {}  # as sent last
        self.homes: dict[int, int] = {}  # of workers

    # ------------------------------------------------------------ telling

    def tell(self, *events: m.Event, after: float = 0.0) -> list[m.Command]:
        """Tell events; draws are answered. Returns what followed."""
        self.now += after
        said: list[m.Command] = []
        queue = list(events)
        while queue:
            commands = self.sup.handle(queue.pop(0), self.now)
            self.sup.validate()
            said += commands
            for command in commands:
                if isinstance(command, m.PlanTask):
                    queue.append(self._draw())
                elif isinstance(command, m.SendTask):
                    self.tasks[command.task] = command
                elif isinstance(command, m.HostWorker):
                    self.homes[command.worker] = command.process
        self.commands += said
        return said

    def _draw(self) -> m.Event:
        if self.drawn == self.batches:
            return m.PlanEnded()
        first = self.drawn * self.size
        self.drawn += 1
        return m.TaskPlanned(list(range(first, first + self.size)))

    # ------------------------------------------------------------ what happens

    def begin(self, ready: bool = True) -> list[m.Command]:
        """Begin an epoch; in the first, let the processes become ready."""
        self.epoch, self.drawn = self.epoch + 1, 0
        said = self.tell(m.EpochBegan(self.epoch))
        for start in only(m.StartProcess, said) if ready else ():
            said += self.ready(start.process)
        return said

    def ready(self, process: int) -> list[m.Command]:
        """A process is ready, and sets its workers up."""
        said = self.tell(m.ProcessReady(process))
        for host in only(m.HostWorker, said):
            said += self.tell(m.WorkerReady(host.process, host.worker, self.now))
        return said

    def load(self, task: int, *, snapshot: object = None, nbytes: int = 64) -> list[m.Command]:
        """The process that a task was sent to has finished it."""
        sent = self.tasks[task]
        return self.tell(m.TaskLoaded(sent.process, task, f"batch {task}", nbytes, snapshot, self.now, self.now))

    def ask(self) -> list[m.Command]:
        return self.tell(m.BatchRequested())

    def get(self) -> m.Command:
        """What the consumer gets next; it must be there."""
        outcome = only((m.Deliver, m.DeliverError, m.DeliverBadSample, m.EndEpoch), self.ask())
        assert len(outcome) == 1, outcome
        return outcome[0]  # type: ignore[no-any-return]

    def die(
        self, process: int, *, task: int | None = None, sample: int | None = None, setup: int | None = None,
        detail: str = "SIGKILL", memory_short: bool = False,
    ) -> list[m.Command]:  # fmt: skip
        return self.tell(m.ProcessExited(process, detail, task, setup, sample, None, memory_short))

    def look(
        self, process: int, *, task: int | None = None, taken_at: float = 0.0, progressed_at: float = 0.0,
        sample: int | None = None, state: str = "S",
    ) -> list[m.Command]:  # fmt: skip
        """The clock advances, and what the process's page says is told."""
        said = self.tell(m.ClockAdvanced())
        assert m.InspectProcess(process) in said
        return said + self.tell(m.ProcessInspected(process, task, None, sample, taken_at, progressed_at, state))

    def bring_up(self, said: list[m.Command]) -> list[m.Command]:
        """Let every process that was started become ready."""
        return [c for start in only(m.StartProcess, said) for c in self.ready(start.process)]

    def answer(self, number: int) -> list[m.Command]:
        """A process answers the oldest message in flight."""
        work = self.sup.fleet.processes[number].work[0]
        if work.kind == "setup":
            return self.tell(m.WorkerReady(number, work.worker, self.now))
        if work.kind == "resume":
            return self.tell(m.WorkerResumed(number, work.worker, self.now))
        return self.load(work.about)

    def obey(self, said: list[m.Command]) -> None:
        """Start what is commanded, and do at once what is to be done in the trainer; and so on."""
        for command in said:
            if isinstance(command, m.StartProcess):
                self.obey(self.tell(m.ProcessReady(command.process)))
            elif isinstance(command, m.HostWorker) and command.process == m.INLINE:
                self.obey(self.tell(m.WorkerReady(m.INLINE, command.worker, self.now)))
            elif isinstance(command, m.LoadInline):
                task = command.task
                self.obey(self.tell(m.TaskLoaded(m.INLINE, task, "batch", 0, None, self.now, self.now)))

    @property
    def rung(self) -> int:
        return self.sup.fleet.rung


def only(kind: Any, commands: list[m.Command]) -> list[Any]:
    """The commands of one kind."""
    return [c for c in commands if isinstance(c, kind)]
