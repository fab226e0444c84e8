"""A hostile world for the supervisor: a driver, a sampler, a consumer and processes, on a virtual clock.

The world plays the driver's part faithfully (commands in order, channels first in first out, results before the exit)
and everything else as badly as it can. After every event it compares what the supervisor wants with what may be
wanted, and every batch with that of an undisturbed run. What goes wrong raises ``Broken``.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from safeloader.core import messages as m
from safeloader.core.policy import CoreSettings
from safeloader.core.state import State
from safeloader.core.supervisor import Supervisor

from .judges import Broken, Consumer, Saved, Undisturbed
from .obeying import Obeying, Plot
from .simulated import SimProcess, SimWorker

if TYPE_CHECKING:
    import random

__all__ = ["Broken", "Plot", "World"]

AFTER_CLOSE = (
    m.GiveState, m.DropShadow, m.StopProcess, m.KillProcess, m.AbandonProcess, m.FreeSlot, m.GiveUp, m.ReportFault, m.CaptureStacks,
)  # fmt: skip
MOST_COMMANDS = 400  # on one event


def _told(state: State) -> State:
    """Without what was lost: whoever goes on has said so."""
    workers = (cursor._replace(changed=cursor.changed and cursor.done is not None) for cursor in state.workers)
    return state._replace(workers=tuple(c if c.done is not None else c._replace(done=()) for c in workers))


class World(Obeying):
    """Everything but the supervisor.

    Args:
        plot: what is loaded, and under which settings.
        rng: decides what the plot leaves open.
        supervisor: the class under test.
    """

    def __init__(self, plot: Plot, rng: random.Random, supervisor: Any = Supervisor) -> None:
        self.supervisor = supervisor
        self.plot = plot
        self.nature = plot.nature
        self.rng = rng
        self.now = 100.0
        self.fits = dict(plot.nature.fits)
        self.told = 0
        self.elsewhere = False  # another program has gone on
        self._begin(plot.settings)
        self.consumer = Consumer(self)
        self.undisturbed = Undisturbed(self)

    def _begin(self, settings: CoreSettings) -> None:
        """A program begins."""
        self.sup = self.supervisor(settings)
        self.processes: dict[int, SimProcess] = {}
        self.inline: dict[int, SimWorker] = {}
        self.captures: deque[m.StacksCaptured] = deque()
        self.slots: dict[int, int] = {}
        self.freed: set[int] = set()
        self.past: deque[m.Event] = deque(maxlen=40)  # messages to be told again
        self._all_arrived = False  # as was said after the end, from when on nothing more is handed over
        self.faults = 0
        self.slowest_start = 0.0
        self.standby_faults = 0
        self.good_since_failback = 0  # while somebody waits for one
        self.standbys_spoilt = False  # memory was too short for one
        self.fault_times: list[float] = []  # since the last rung
        self.memory_short = False
        self.rung = self.sup.fleet.rung
        self.closed = False
        self.refused: set[int] = set()  # workers that the trainer broke off
        self.lenient: set[int] = set()  # those of which it leaves out what cannot be undone
        self.given_up: m.GiveUp | None = None
        self.state_wanted = False
        self.state: State | None = None  # as told last
        self.takes: set[int] = set()  # workers that are taken as they come
        self._asked: Saved | None = None  # the consumer when it asked for it
        self._wanted_again: set[object] = set()
        self._events: deque[m.Event] = deque()
        self._no_shadows()
        self._sleepers: list[SimProcess] = []
        self._actions = {kind: getattr(self, f"_{kind.__name__}") for kind in m.COMMANDS}

    # ------------------------------------------------------------ the driver

    def tell(self, event: m.Event) -> None:
        """Tell an event and whatever follows from that, in order; look at everything after each."""
        self._events.append(event)
        while self._events:
            event = self._events.popleft()
            if isinstance(event, m.WorkerChanged) and event.worker in self._lodgers(event.process):
                self.changed.add(event.worker)
            self.told += 1
            if self.told > 15_000:
                raise Broken("it never ends")
            self._before(event)
            was_waiting = self.consumer.waiting or isinstance(event, (m.EpochBegan, m.EpochResumed))
            commands = self.sup.handle(event, self.now)
            if isinstance(event, m.WorkerReady) and event.worker in self.takes and not self.closed:
                self.takes.discard(event.worker)
                self._adopt(event.worker)
            if isinstance(event, m.RewindRequested):
                self.undisturbed.take_back(self._wanted_again)
            self._see_promotions()
            if len(commands) > MOST_COMMANDS:
                raise Broken(f"{len(commands)} commands on {event}")
            for number, command in enumerate(commands):
                self.following = commands[number + 1 :]
                if self.closed and type(command) not in AFTER_CLOSE:
                    raise Broken(f"{command} after the end")
                if type(command) is m.PlanTask and not was_waiting:
                    raise Broken("a draw while nobody waits")
                self._actions[type(command)](command)
            self.sup.validate()
            self._check_limits()
            if isinstance(event, m.ClockAdvanced):
                self._check_starts()
        self.consumer.check_draws()
        while self._sleepers:
            process = self._sleepers.pop()
            if not (process.condemned or process.gone or self.closed):
                raise Broken(f"process {process.id} is stopped, and is to take over")

    def _check_starts(self) -> None:
        """None is waited for much longer than others took."""
        for process in self.processes.values():
            waited_for = not (
                process.ready_told or process.condemned or process.told_to_end or process.killed_elsewhere
            )
            if process.gone or self.closed or not waited_for or self.plot.settings.shared:
                continue
            if (
                self.now - process.started_at > 4.0 * self.allowed_to_start() + 1e-6
                and self.sup.next_deadline() > self.now
            ):
                raise Broken(
                    f"process {process.id} has started for {self.now - process.started_at:.0f} s, and is waited for"
                )

    def _see_promotions(self) -> None:
        """A standby that is to take over is one no more, even before it hosts anybody."""
        for number, process in self.processes.items():
            books = self.sup.fleet.processes.get(number)
            if process.failback and books is not None and not books.failback:
                self._takes_over(process)
            if process.standby and books is not None and not books.standby:
                process.standby = False
                if process.life == "stopped" and process.ready_told:
                    self._sleepers.append(process)

    def _takes_over(self, process: SimProcess) -> None:
        """A failback is used: it is ready on another host, and one that fell back makes room for it."""
        books = self.sup.fleet.processes
        if not process.ready_told or process.fell_back:
            raise Broken(f"process {process.id} is used, and is not on another host")
        if not any(number in books and books[number].retiring for number in self.fallen_back()):
            raise Broken(f"process {process.id} is used, and nobody makes room for it")
        process.failback, self.good_since_failback = False, 0

    @property
    def _may_keep_changes(self) -> bool:
        return self.plot.shadows > 0 or self.nature.hidden

    def _check_limits(self) -> None:
        """What policy says must have happened by now."""
        settings = self.plot.settings
        if self.closed:
            return
        if (
            not self._may_keep_changes
            and self.rung < self.sup.fleet.rungs[0]
            and self.consumer.received_since_rung >= settings.recover_after
        ):
            raise Broken(f"still at rung {self.rung} after {self.consumer.received_since_rung} good batches")
        if max(self.undisturbed.setups_hurt.values(), default=0) > settings.bad_sample_attempts:
            raise Broken("a worker cannot be set up, and it is tried again")
        if self.undisturbed.refused_for_good:
            raise Broken("the dataset cannot be rebuilt, and it is tried again")
        self._check_standbys()
        self._check_failbacks()
        if self.nature.stateless:
            self._check_undone()
        if settings.batch_timeout != "auto" and not settings.shared:
            self._check_patience()

    def _check_patience(self) -> None:
        """Nobody has more time than policy says: only what hung before has twice as much."""
        for books in self.sup.fleet.processes.values():
            process = self.processes.get(books.id)
            if process is None or not process.asked or not process.ready_told or process.condemned or process.gone:
                continue
            most = max(self.allowed(*asked) for asked in process.asked)
            if self.now + most + 1e-6 < books.deadline < math.inf and not process.told_to_end:
                raise Broken(f"process {books.id} has {books.deadline - self.now:.0f} s, and {most:.0f} are allowed")

    def allowed(self, kind: str, about: int, worker: int) -> float:
        """Seconds without progress that policy allows for this."""
        settings = self.plot.settings
        slow = ("setup", "resume") if self.nature.iterable else ("setup",)
        base = settings.startup_timeout if kind in slow else float(settings.batch_timeout)
        return base * 2.0 ** self.undisturbed.hangs(kind, about, worker)

    def _check_undone(self) -> None:
        """Nothing of an epoch that was broken off is begun any more."""
        for process in self.processes.values():
            for c in process.inbox if not (process.gone or process.told_to_end or process.killed_elsewhere) else ():
                if isinstance(c, m.SendTask) and c.task >= process.passed:
                    if self.undisturbed.tasks[c.task].epoch != self.consumer.epoch:
                        raise Broken(f"{c}, and nobody wants it")

    def _check_standbys(self) -> None:
        """When nobody is missing, the standbys are there, unless there was a reason to do without."""
        settings, fleet = self.plot.settings, self.sup.fleet
        there = [p for p in self.processes.values() if p.standby and not p.gone and not p.told_to_end]
        if self.rung != fleet.rungs[0] and not all(p.condemned for p in there):
            raise Broken(f"standbys at rung {self.rung}")
        staff = [p for p in self.processes.values() if not (p.standby or p.gone or p.told_to_end)]
        if self.consumer.epoch < 0 or self.rung != fleet.rungs[0] or len(staff) < self.rung:
            return
        if self.rung == 0 or not all(p.ready_told and not p.condemned for p in staff):
            return
        excused = self.standbys_spoilt or self.standby_faults > settings.max_restarts
        if len(there) < settings.standby and not excused:
            raise Broken(f"{len(there)} standbys, and {settings.standby} are wanted")
        if self.standbys_spoilt and not all(p.condemned for p in there):
            raise Broken("a standby, and memory is too short for one")

    def _check_failbacks(self) -> None:
        """Below the top rung there are none; at the top there is one in time."""
        there = [p for p in self.processes.values() if p.failback and not (p.gone or p.told_to_end or p.condemned)]
        if there and self.rung != self.sup.fleet.rungs[0]:
            raise Broken(f"a failback at rung {self.rung}")
        if self.good_since_failback > 8 * self.plot.settings.recover_after and not self._may_keep_changes:
            raise Broken(f"processes {self.fallen_back()} fell back, and stay where they are")

    def _before(self, event: m.Event) -> None:
        if isinstance(event, m.CloseRequested):
            self.closed = True
        elif isinstance(event, m.ProcessExited):
            self._exit_told(event)
        elif isinstance(event, m.ProcessLostElsewhere):
            self._forfeited(event)
        elif not self.closed:
            self.undisturbed.hear(event)

    def _exit_told(self, event: m.ProcessExited) -> None:
        process = self.processes.get(event.process)
        if process is None or process.gone:
            return
        process.gone = True
        if process.told_to_end or process.killed_elsewhere:
            return
        self._lost(process, event)

    def _forfeited(self, event: m.ProcessLostElsewhere) -> None:
        process = self.processes[event.process]
        if not (process.gone or process.told_to_end or process.sentenced):
            process.killed_elsewhere = process.condemned = True

    # ------------------------------------------------------------ the neighbours in a pool

    def lend(self, process: SimProcess, stuck: bool) -> None:
        """Another loader has it work."""
        process.busy, process.stuck, process.there = True, stuck, self.now

    def come_back(self, process: SimProcess) -> None:
        process.busy, process.there = False, self.now

    def forfeit(self, process: SimProcess, told: bool) -> None:
        """Another loader has it killed."""
        process.forfeit = process.killed = True
        if told:
            self.tell(m.ProcessLostElsewhere(process.id))

    def lendable(self) -> list[SimProcess]:
        if not self.plot.settings.shared:
            return []
        idle = [p for p in self.processes.values() if p.life in ("up", "starting") and p.job is None]
        return [p for p in idle if not (p.busy or p.told_to_end or p.killed)]

    def lent(self) -> list[SimProcess]:
        """Those that will come back."""
        return [p for p in self.processes.values() if p.busy and p.life == "up" and not p.stuck]

    def stuck_elsewhere(self) -> list[SimProcess]:
        """Those that will not; their own loaders notice it."""
        others = [p for p in self.processes.values() if p.busy and p.life != "dead" and not p.killed]
        return [p for p in others if p.stuck or p.life != "up"]

    # ------------------------------------------------------------ what may happen next

    def hearable(self) -> list[SimProcess]:
        return [p for p in self.processes.values() if p.outbox and not p.gone]

    def movable(self) -> list[SimProcess]:
        return [p for p in self.processes.values() if p.can_move]

    def killable(self) -> list[SimProcess]:
        return [p for p in self.processes.values() if p.killed and not p.unkillable and p.life != "dead"]

    def hear(self, process: SimProcess) -> None:
        """Read one message from a channel, or the exit."""
        event = process.outbox.popleft()
        if isinstance(event, m.ProcessReady):
            counts = not (
                process.gone or process.told_to_end or process.killed_elsewhere or process.doomed or process.shadowed
            )
            if counts and event.at is not None:
                self.slowest_start = max(self.slowest_start, event.at - process.started_at)
            process.ready_told = not process.condemned or not process.doomed
            if not process.doomed:
                process.condemned = False
        elif process.asked and not isinstance(
            event,
            (
                m.ProcessExited,
                m.ProcessLostElsewhere,
                m.StartRefused,
                m.WorkerMarked,
                m.WorkerChanged,
                m.WorkerUnchanged,
                m.ShadowTaken,
            ),
        ):
            process.asked.popleft()
            process.sent_at.popleft()
            if not process.doomed:  # a false alarm
                process.condemned = False
        if isinstance(event, m.ShadowTaken):
            self.shadows[event.shadow].told = True
        else:
            self.past.append(event)
        self.tell(event)

    def move(self, process: SimProcess, seconds: float = 0.01) -> None:
        """Let a process do its next step."""
        self.now += seconds
        answered = len(process.outbox)
        process.step(self.now)
        if len(process.outbox) > answered and process.life == "up" and process.job is None and process.workers:
            self.take_shadow(process)
        for slot, value in process.writes:
            self._write(slot, value)
        process.writes.clear()

    def _write(self, slot: int, value: int) -> None:
        self.slots[slot] = value
        for lease, content in self.consumer.held:
            if lease.slot == slot and content != value:
                raise Broken(f"slot {slot} is overwritten while the consumer holds it")

    def haunt(self, process: SimProcess) -> None:
        """A process that could not be killed writes to the memory that it had."""
        for slot in process.slots():
            self._write(slot, -7)

    def repeat(self, event: m.Event) -> None:
        """Tell a message again, or that of a process that is gone: nothing may follow from it."""
        process = self.processes[event.process]  # type: ignore[union-attr]
        about = getattr(event, "task", getattr(event, "worker", None))
        fitting = not process.asked or process.asked[0][1] == about or isinstance(event, m.WorkerMarked)
        if not process.gone and fitting:
            return  # from a living process it would be an answer
        commands = self.sup.handle(event, self.now)
        if [c for c in commands if type(c) not in (m.ReportFault, m.GiveUp)]:
            raise Broken(f"stale {event} led to {commands}")
        self.sup.validate()

    # ------------------------------------------------------------ elsewhere

    def ask_for_state(self, received: bool) -> None:
        """Ask where the consumer stands. Unless it received it, the last thing handed over does not count."""
        if self.closed:
            self._all_arrived = received = received or self._all_arrived
        asked = self.consumer.saved() if received else self.consumer.before
        if asked is not None and not self.state_wanted and not (self.undisturbed.adopted or self.takes):
            self._asked, self.state, self.state_wanted = asked, None, True
            if received:  # what was handed over is known to have arrived
                self.consumer.before = asked
            self.tell(m.StateRequested(received))

    def go_on_elsewhere(self) -> None:
        """Another program goes on from the state, with as many processes as it likes."""
        state, saved = self.state, self._asked
        if self.undisturbed.adopted or self.takes:  # what it would have been is not known
            self.state = None
            return
        assert state is not None
        assert saved is not None
        self.elsewhere, inexact = True, self.inexact
        self.consumer.go_back(saved, state)
        self.undisturbed.go_back(state)
        self._begin(replace(self.plot.settings, max_processes=self.rng.choice((None, 0, 1, 2))))
        if (
            self.nature.hidden
        ):  # a state has what the datasets changed in themselves as far as that was seen, and is known
            known = {n for n, cursor in enumerate(state.workers) if cursor.changed and cursor.done is not None}
            self.inexact |= inexact | (set(range(self.plot.settings.num_workers)) - known)
            self.changed.update(n for n, cursor in enumerate(state.workers) if cursor.changed)
        self.tell(m.EpochResumed(state))
        self.undisturbed.look()
        again, state = self.sup.progress.state(), _told(state)
        if again._replace(slowest=(0.0, 0.0)) != state._replace(slowest=(0.0, 0.0)) and not self.nature.iterable:
            if not self.undisturbed.adopted and again.drawn == state.drawn and not self.closed:
                raise Broken(f"{again} after going on from {state}")

    def take_back(self, batches: int, received: bool) -> None:
        """The consumer wants its last batches again, if so many are known, and it is known what they are."""
        known = self.consumer.saved() if received or self.consumer.before is None else self.consumer.before
        settings, got = self.plot.settings, [*known["batches"]]
        if not settings.indexed or settings.stateful or self.closed or self.state_wanted or self.state is not None:
            return
        if not 0 < batches <= min(len(got), self.sup.rewinding.known(received or self.consumer.before is None)):
            return
        self.undisturbed.look()
        self._wanted_again = self.consumer.take_back(batches, received)
        if self.nature.hidden:
            self.inexact.update(range(settings.num_workers))
        self.tell(m.RewindRequested(batches, received))

    def jump(self) -> None:
        """Nothing happens until the next deadline."""
        self.now = max(self.now, self.sup.next_deadline())
        self.tell(m.ClockAdvanced())

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the supervisor."""
        return self.consumer.waiting or self.state_wanted

    def check_alive(self) -> None:
        """If nothing at all can happen any more, nobody may wait."""
        idle = not (
            self.lost_shadows or self.hearable() or self.movable() or self.captures or self.killable() or self.lent()
        )
        if idle and self.sup.next_deadline() == math.inf and self.awaited and not self.closed:
            raise Broken("deadlock: the consumer waits, and nothing is in flight")
