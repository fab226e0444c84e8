"""What the world does with each command, and what it holds against the supervisor when the command must not be."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safeloader.core import messages as m
from safeloader.core.deadlines import FORK_TIMEOUT
from safeloader.core.state import State

from .judges import Broken
from .shadowing import Shadowing
from .simulated import Nature, SimProcess, SimWorker, host, result

if TYPE_CHECKING:
    import random

    from safeloader.core.policy import CoreSettings

    from .judges import Consumer, Undisturbed

__all__ = ["Obeying", "Plot"]


@dataclass(frozen=True)
class Plot:
    """One world: what is loaded, and under which settings."""

    settings: CoreSettings
    nature: Nature = field(default_factory=Nature)
    batches: int = 8
    batch_size: int = 2
    bad_starts: float = 0.0  # share of processes that end or hang while they start
    hanging_starts: float = 0.5  # share of those that hang
    refused_starts: float = 0.0  # the system cannot start one
    refusals: float = 0.0  # share of processes that cannot rebuild the dataset
    unkillable: float = 0.0
    shadows: float = 0.0  # how often a process copies itself when it has answered something
    no_room: float | None = (
        None  # share of processes that find no room on another host; None: all are to be on this one
    )


class Obeying(Shadowing):
    """The half of the world that carries commands out: one method a command, named after it."""

    plot: Plot
    nature: Nature
    rng: random.Random
    now: float
    sup: Any
    processes: dict[int, SimProcess]
    inline: dict[int, SimWorker]
    captures: deque[m.StacksCaptured]
    consumer: Consumer
    undisturbed: Undisturbed
    following: list[m.Command]
    fits: dict[int, int]
    freed: set[int]
    past: deque[m.Event]
    faults: int
    slowest_start: float
    standby_faults: int
    good_since_failback: int
    standbys_spoilt: bool
    fault_times: list[float]
    memory_short: bool
    rung: int
    closed: bool
    given_up: m.GiveUp | None
    state_wanted: bool
    state: State | None
    takes: set[int]
    elsewhere: bool
    refused: set[int]
    lenient: set[int]
    _events: deque[m.Event]

    # ------------------------------------------------------------ commands

    def _PlanTask(self, command: m.PlanTask) -> None:
        self._events.append(self.consumer.draw())

    def _StartProcess(self, command: m.StartProcess) -> None:
        if command.process in self.processes:
            raise Broken("a process number is used again")
        unkillable = self.rng.random() < self.plot.unkillable
        process = SimProcess(command.process, self.nature, self.now, unkillable, self.fits)
        process.refuses = self.rng.random() < self.plot.refusals
        self.processes[command.process] = process
        process.standby, process.failback = command.standby, command.failback
        self._may_start(command)
        if self.plot.no_room is not None:
            process.fell_back = self.rng.random() < self.plot.no_room
        if command.shadow is not None:
            self.wake(command, process)
            return
        chance = self.rng.random()
        if chance < self.plot.refused_starts:
            process.die("cannot allocate memory")
            self._events.append(process.outbox.popleft())
        elif chance < self.plot.refused_starts + self.plot.bad_starts:
            if self.rng.random() < self.plot.hanging_starts:
                process.life = "hung"
            else:
                process.die("exit code 1")

    def _may_start(self, command: m.StartProcess) -> None:
        """No more than policy wants; and a standby that is there is not left idle."""
        fleet = self.sup.fleet
        seats = [p for n, p in self.processes.items() if not (p.gone or p.told_to_end)]
        staff = [p.id for p in seats if not p.spare]
        standbys = [p.id for p in seats if p.standby]
        if sum(n not in fleet.processes or not fleet.processes[n].retiring for n in staff) > max(self.rung, 1):
            raise Broken(f"processes {staff} at rung {self.rung}")
        if command.failback:
            self._may_fail_back()
        elif command.standby:
            starting = [n for n in staff if not self.processes[n].ready_told and not self.processes[n].condemned]
            if len(standbys) > self.plot.settings.standby or self.rung != fleet.rungs[0] or starting:
                raise Broken(f"standbys {standbys} at rung {self.rung}, while {starting} start")
        elif command.shadow is None and any(not self.processes[n].condemned for n in standbys):
            raise Broken(f"process {command.process} is started, and there are standbys: {standbys}")

    def _may_fail_back(self) -> None:
        """One at a time, at the top rung, for one that fell back, and after enough good batches."""
        there = [p.id for p in self.processes.values() if p.failback and not p.gone]
        if len(there) > 1 or self.rung != self.sup.fleet.rungs[0] or not self.fallen_back() or self.kept_changes():
            raise Broken(f"failbacks {there} at rung {self.rung}, for {self.fallen_back()}")
        if self.consumer.received_since_rung < self.plot.settings.recover_after:
            raise Broken(f"a failback after {self.consumer.received_since_rung} batches")
        self.good_since_failback = 0

    def fallen_back(self) -> list[int]:
        """Those that are ready here, and were to be on another host."""
        return [p.id for p in self.processes.values() if p.fell_back and p.ready_told and not p.spare and not p.gone]

    def _HostWorker(self, c: m.HostWorker) -> None:
        homes = [p for p in self.processes.values() if c.worker in p.lodgers and not p.gone]
        if homes or c.worker in self.inline:
            raise Broken(f"worker {c.worker} is hosted twice")
        self.hosting(c)
        again = len(c.replay) + (c.position - (c.mark.position if c.mark else 0)) * self.nature.iterable
        known = self.undisturbed.adopted | self.takes
        if again and not (c.digests or c.redo is not None or self.nature.hidden) and c.worker not in known:
            raise Broken(f"{c}, and {again} tasks are not compared")
        if c.process == m.INLINE:
            self._may_be_lenient(c)
            event = host(self.nature, c, self.inline, self.now)
            if self.nature.iterable and self._refused(c.worker):  # others are set up when they are needed
                return
            self._events.append(event)
            return
        self._send(c, "setup", c.worker)

    def _may_be_lenient(self, c: m.HostWorker) -> None:
        if c.lenient and c.worker not in self.undisturbed.spared:
            raise Broken(f"{c}, and nobody knows that there is no process for it")
        if c.worker in self.refused and not c.lenient:
            raise Broken(f"{c}, which was refused")
        self.lenient.discard(c.worker)
        if c.lenient:
            self.lenient.add(c.worker)

    def _refused(self, worker: int) -> bool:
        """True if what a worker is about to do in the trainer is broken off."""
        if worker not in self.nature.lasting or worker in self.lenient:
            return False
        self.refused.add(worker)
        self._events.append(m.InlineRefused(worker, "nice(5)"))
        return True

    def _DropWorker(self, c: m.DropWorker) -> None:
        if c.process == m.INLINE:
            del self.inline[c.worker]
            return
        process = self._reachable(c.process)
        if any(a[2] == c.worker for a in process.asked):
            raise Broken(f"worker {c.worker} leaves with something in flight")
        process.lodgers.discard(c.worker)
        self.left.add(c.worker)
        process.inbox.append(c)

    def _ResumeWorker(self, c: m.ResumeWorker) -> None:
        if c.process == m.INLINE:
            worker = self.inline[c.worker]
            if self._refused(c.worker):
                return
            self._events.append(m.WorkerResumed(m.INLINE, c.worker, self.now, worker.resume(c.epoch), worker.content))
            return
        self._send(c, "resume", c.worker)

    def _RewindWorker(self, c: m.RewindWorker) -> None:
        if c.process == m.INLINE:
            if not self._refused(c.worker):
                self.inline[c.worker].go_back(c.to)
                self._events.append(m.WorkerResumed(m.INLINE, c.worker, self.now))
            return
        self._send(c, "resume", c.worker)

    def _SendTask(self, c: m.SendTask) -> None:
        slot = c.lease.slot
        if slot in self.freed:
            raise Broken(f"slot {slot} was given back to the system")
        if any(slot in process.slots() for process in self.processes.values()):
            raise Broken(f"another process may still write to slot {slot}")
        if any(lease.slot == slot for lease, _ in self.consumer.held):
            raise Broken(f"the consumer looks into slot {slot}")
        self.undisturbed.sent(c)
        self._send(c, "task", c.task)

    def _CancelBefore(self, c: m.CancelBefore) -> None:
        process = self.processes[c.process]
        if process.gone or process.told_to_end:
            raise Broken(f"{c}, and it is told to end, or gone")
        process.passed = c.before

    def _SendProbe(self, c: m.SendProbe) -> None:
        if not c.positions:
            raise Broken("an empty probe")
        self.processes[c.process].probed = True
        self._send(c, "probe", c.task)

    def _send(self, c: Any, kind: str, about: int) -> None:
        process = self._reachable(c.process)
        if process.spare:
            raise Broken(f"{c} for a spare process")
        if kind == "setup":
            process.lodgers.add(c.worker)
        elif c.worker not in process.lodgers:
            raise Broken(f"{c} for a worker that does not live there")
        process.asked.append((kind, about, c.worker))
        process.sent_at.append(self.now)
        process.inbox.append(c)

    def _reachable(self, number: int) -> SimProcess:
        process = self.processes[number]
        if process.gone or process.told_to_end or process.condemned or not process.ready_told:
            raise Broken(f"work for process {number}, which takes none")
        return process

    def _LoadInline(self, c: m.LoadInline) -> None:
        self.undisturbed.sent(c)
        if self.undisturbed.tasks[c.task].failures:
            raise Broken(f"task {c.task} hurt a process, and is tried in the trainer")
        worker = self.inline[c.worker]
        if self._refused(c.worker):
            return
        bad = [i for i, s in worker.samples(c.indices, c.skip) if s in self.nature.kills or s in self.nature.hangs]
        if bad:
            self.now += c.timeout
            self.undisturbed.failures("task", c.task, c.worker, by_sample=True, hung=True)
            sample = bad[0] if self.nature.known else None
            self._events.append(m.InlineInterrupted(c.task, sample, "stack"))
            return
        taken_at = self.now
        self.now += 0.01
        outcome = worker.load(c.indices, c.skip)
        event = result(self.nature, m.INLINE, c.task, outcome, taken_at, self.now)
        if isinstance(event, m.TaskLoaded) and outcome.content is not None:
            event = event._replace(snapshot=worker.state)
        if isinstance(event, m.TaskLoaded):
            self._events += worker.looked(m.INLINE)
        self._events.append(event)
        if isinstance(event, m.TaskLoaded) and worker.tells:
            self._events.append(m.WorkerMarked(m.INLINE, c.worker, worker.content))

    def _InspectProcess(self, c: m.InspectProcess) -> None:
        process = self.processes[c.process]
        page = process.page
        letter = {"stopped": "T", "hung": "S", "dead": "Z"}.get(process.life, "R")
        if process.busy and letter == "T":  # its own loader sees that, too
            process.forfeit = process.killed = True
        if process.gone:
            return
        if process.forfeit or (process.busy and letter == "Z" and not process.sentenced):
            self._events.append(m.ProcessLostElsewhere(c.process))
            return
        progressed_at = max(page.progressed_at, process.there)
        self._events.append(
            m.ProcessInspected(
                c.process, page.task, page.setup, page.sample, page.taken_at, progressed_at, letter, process.busy
            )
        )

    def _CaptureStacks(self, c: m.CaptureStacks) -> None:
        process = self.processes[c.process]
        self._condemned(process)
        process.asked_for_stacks = True
        if process.life in ("up", "hung", "starting") and self.rng.random() < 0.7:
            self.captures.append(m.StacksCaptured(c.process, f"stack of {c.process}"))

    def _condemned(self, process: SimProcess) -> None:
        """The supervisor takes it for hung: it must have been silent for long enough."""
        settings = self.plot.settings
        if process.busy and not process.told_to_end:
            raise Broken(f"process {process.id} works for another loader, and is taken for hung")
        process.condemned = True
        process.suspect = process.at()
        if settings.batch_timeout == "auto" or process.told_to_end or process.life == "stopped":
            return
        starting = not process.ready_told
        slow = ("setup", "resume") if self.nature.iterable else ("setup",)
        if starting:
            allowed = FORK_TIMEOUT if process.shadowed else self.allowed_to_start()
        elif process.suspect is not None and process.suspect[0] in slow:
            allowed = settings.startup_timeout
        else:
            allowed = settings.batch_timeout
        since = process.started_at if starting else max(process.page.progressed_at, process.there, process.sent_at[0])
        if process.suspect is not None:
            allowed *= 2.0 ** self.undisturbed.hangs(*process.suspect)
        if self.now - since < allowed - 1e-6:
            raise Broken(f"process {process.id} moved {self.now - since:.3f} s ago, and is taken for hung")

    def allowed_to_start(self) -> float:
        """Seconds for a first start, as far as others have shown what it takes."""
        given = self.plot.settings.startup_timeout
        return min(given, max(60.0, 30.0 * self.slowest_start)) if self.slowest_start else given

    def _ReportSlowStart(self, c: m.ReportSlowStart) -> None:
        process = self.processes[c.process]
        if process.ready_told or process.condemned or process.gone or process.slow_told:
            raise Broken(f"process {c.process} does not start, and is said to be slow")
        if self.now - process.started_at < max(10.0, 5.0 * self.slowest_start) - 1e-6:
            raise Broken(
                f"process {c.process} has started for {self.now - process.started_at:.3f} s, and is said to be slow"
            )
        process.slow_told = True

    def _KillProcess(self, c: m.KillProcess) -> None:
        process = self.processes[c.process]
        if process.gone:
            raise Broken(f"process {c.process} is gone, and killed")
        process.sentenced = True
        starting = not process.ready_told and not process.condemned and not process.told_to_end
        if starting and not self.plot.settings.shared:
            process.told_to_end = True  # it had nothing to finish
        elif starting:
            raise Broken("others wait for this process, and it is killed")
        elif self.sup.fleet.processes[c.process].killed_elsewhere:
            self._replaced(process)
        elif not process.condemned and not self.closed:
            self._condemned(process)
            process.asked_for_stacks = False
        process.killed = True

    def _replaced(self, process: SimProcess) -> None:
        """Its shadow is to make another: that must be there, and there must be a reason."""
        if not any(shadow.home == process.id for shadow in self.living_shadows()) or not process.probed:
            raise Broken(f"process {process.id} has done nothing wrong, and is killed")
        process.killed_elsewhere = process.condemned = True

    def _StopProcess(self, c: m.StopProcess) -> None:
        process = self.processes[c.process]
        if not self.closed and process.asked:
            raise Broken(f"process {c.process} is to end with work in flight")
        process.told_to_end = True
        if self.plot.settings.shared and process.life != "dead":
            process.die("left")  # the loader leaves it at once, whatever it does
        else:
            process.inbox.append(c)

    def _AbandonProcess(self, c: m.AbandonProcess) -> None:
        process = self.processes[c.process]
        if not process.doomed:
            raise Broken(f"process {c.process} is abandoned before it was killed")
        process.gone = True
        if not process.told_to_end and not process.killed_elsewhere:
            self._lost(process, None)
        self.past.extend(event for event in process.outbox if not isinstance(event, m.ShadowTaken))
        process.outbox.clear()

    def _lost(self, process: SimProcess, event: m.ProcessExited | None) -> None:
        """A process is gone: what it was condemned for, or what its page names, has hurt it."""
        if process.failback:
            return
        if process.standby:
            self.standby_faults += 1
            self.standbys_spoilt |= event is not None and event.memory_short and not process.condemned
            return
        self.faults += 1
        self.undisturbed.faults_in_a_row += 1
        self.fault_times.append(self.now)
        self.memory_short = event is not None and event.memory_short
        failures = self._to_blame(process, event)
        if failures is not None:
            self.undisturbed.failures(*failures, process.hurt_by_sample, process.condemned and process.asked_for_stacks)
        if self.rung == 0 and self._too_many() and (failures is None or failures[0] != "probe"):
            self.undisturbed.none_to_be_had()

    @staticmethod
    def _to_blame(process: SimProcess, event: m.ProcessExited | None) -> tuple[str, int, int] | None:
        """What was in work: kind, about, worker."""
        if not process.asked:
            return None
        kind, about, worker = process.asked[0]
        if process.condemned or event is None:
            to_blame = process.asked[0] is process.suspect
        else:
            to_blame = about == (event.setup if kind in ("setup", "resume") else event.task)
        to_blame = to_blame and not (kind == "setup" and worker in process.redone)
        return (kind, about, worker) if to_blame else None

    def _Deliver(self, c: m.Deliver) -> None:
        self.undisturbed.delivered(c)
        calm = self.rung == self.sup.fleet.rungs[0] and not any(
            p.failback and not p.gone for p in self.processes.values()
        )
        self.good_since_failback += calm and bool(self.fallen_back())
        self.consumer.receive(c)

    def _DeliverError(self, c: m.DeliverError) -> None:
        self.undisturbed.raised(c)
        self.consumer.receive(c)

    def _DeliverBadSample(self, c: m.DeliverBadSample) -> None:
        self.undisturbed.convicted(c.task, c.indices, c.unresolved)
        self.consumer.receive(c)

    def _EndEpoch(self, c: m.EndEpoch) -> None:
        self.consumer.end_epoch()

    def _GiveState(self, c: m.GiveState) -> None:
        if not self.state_wanted:
            raise Broken("a state that nobody asked for")
        behind = any(type(i).__name__ == "Resume" for w in self.sup.workers for i in (*w.waiting, *w.sent))
        if c.state is None and not behind and self.sup.epoch >= 0:
            raise Broken("the state was not kept")
        self.state_wanted, self.state = False, c.state

    def _FreeSlot(self, c: m.FreeSlot) -> None:
        if any(lease.slot == c.slot for lease, _ in self.consumer.held):
            raise Broken("the consumer looks into a slot that is freed")
        self.freed.add(c.slot)

    def _GiveUp(self, c: m.GiveUp) -> None:
        if self.given_up is None:
            self._may_give_up(c)
        self.given_up, self.closed = c, True
        self.consumer.waiting = False

    def _may_give_up(self, c: m.GiveUp) -> None:
        settings = self.plot.settings
        if c.cause == "diverged":
            wanted = settings.on_divergence == "raise" or self.nature.refusing
            if not (wanted and isinstance(c.error, m.ReportReplay) and self._may_diverge(c.error)):
                raise Broken(f"{c}, and nothing differs")
        elif c.cause == "restarts":
            lowest = self.sup.fleet.rungs[-1]
            if self.rung != lowest or not self._too_many() or lowest == 0:
                raise Broken(f"{c} after {self.fault_times} at rung {self.rung}")
        elif c.cause == "starts":
            if self.rung != 0 or not self._too_many() or not any(self.undisturbed.setups_hurt.values()):
                raise Broken(f"{c} after {self.fault_times} at rung {self.rung}: {self.undisturbed.setups_hurt}")
        elif c.cause == "setup":
            if max(self.undisturbed.setups_hurt.values(), default=0) <= settings.bad_sample_attempts:
                raise Broken(f"{c}: {self.undisturbed.setups_hurt}")
        elif not self.undisturbed.refused_for_good:
            raise Broken(f"nobody refused, or it went well before: {c}")

    def _too_many(self) -> bool:
        settings = self.plot.settings
        recent = sum(t >= self.now - settings.restart_period for t in self.fault_times)
        return max(recent, self.undisturbed.faults_in_a_row) > settings.max_restarts

    def _ReportFault(self, c: m.ReportFault) -> None:
        """What it says will become of the batch is what has been decided."""
        task = None if c.task is None else self.sup.tasks.get(c.task)
        settled = task is None or task.state.name == "SETTLED"
        process = self.processes.get(c.process)
        if process is not None and process.failback and process.killed_elsewhere:
            raise Broken(f"{c}, and there was only no room")
        if (c.verdict == "ended") > self.sup.closed:
            raise Broken(f"{c}, and the loader goes on")
        followed = any(isinstance(other, m.ReportSkipped) and other.task == c.task for other in self.following)
        if c.verdict in ("again", "searched") and settled and not followed:
            raise Broken(f"{c}, and it is not loaded again")
        if c.verdict == "raised" and (
            not settled or (task is not None and type(task.result) is not m.DeliverBadSample)
        ):
            raise Broken(f"{c}, and no error is raised")
        if c.verdict == "" and task is not None and not (settled or task.abandoned or self.sup.closed):
            raise Broken(f"{c}, and nothing is said of the batch")

    def _may_diverge(self, said: m.ReportReplay) -> bool:
        """Whether there is no way for this worker to come to its place."""
        nature = self.nature
        state = nature.lying or nature.refusing
        return said.worker in nature.shaky or (state and (said.epoch > 0 or not nature.iterable))

    def _ReportReplay(self, c: m.ReportReplay) -> None:
        if c.outcome == "lost":
            if not self.nature.hidden or c.worker not in self.changed:
                raise Broken(f"{c}, and nothing was")
            self.changed.discard(c.worker)
            self.inexact.add(c.worker)
            return
        if (c.outcome == "same") != (c.compared > 0):
            raise Broken(f"{c}, and {c.compared} were compared")
        if c.action == "goes on" and c.outcome == "unknown":
            first = self.nature.compared and self.nature.iterable and c.epoch == 0 and not self.elsewhere
            if first and c.worker not in self.undisturbed.adopted:
                raise Broken(f"{c}, and it can be read from its beginning")
            self._adopt(c.worker)
        elif c.action == "goes on" and c.outcome != "same":
            if self.plot.settings.on_divergence != "warn" or not self._may_diverge(c):
                raise Broken(f"{c}, and policy does not want that")
            self.takes.add(c.worker)

    def _adopt(self, worker: int) -> None:
        """What this worker loads from now on is not known to be what it would have loaded: so it is told."""
        homes = [p.workers for p in self.processes.values() if not p.gone and worker in p.lodgers] + [self.inline]
        here = next(workers[worker] for workers in homes if worker in workers)
        if self.nature.lying or self.nature.shaky or self.nature.refusing:
            self.undisturbed.adopt(worker, copy.copy(here))

    def _ReportRung(self, c: m.ReportRung) -> None:
        rungs = self.sup.fleet.rungs
        if c.old != self.rung or abs(rungs.index(c.old) - rungs.index(c.new)) != 1:
            raise Broken(f"{c} at {self.rung}")
        if c.new > c.old and self.consumer.received_since_rung + 1 < self.plot.settings.recover_after:
            raise Broken(f"{c} after {self.consumer.received_since_rung + 1} batches")
        if c.new < c.old and not self.memory_short and not self._too_many():
            raise Broken(f"{c} after {self.fault_times}")
        if (c.new > c.old or not self.memory_short) and self.undisturbed.faults_in_a_row <= 3 and self.kept_changes():
            raise Broken(f"{c}, and what the datasets have changed in themselves is lost")
        if c.new < c.old:
            self.fault_times.clear()
        self.rung, self.consumer.received_since_rung, self.good_since_failback = c.new, 0, 0

    def _ReportStay(self, c: m.ReportStay) -> None:
        if c.rung != self.rung or not self._too_many():
            raise Broken(f"{c} at {self.rung} after {self.fault_times}")

    def _ReportSlow(self, c: m.ReportSlow) -> None:
        pass

    def _ReportRefused(self, c: m.ReportRefused) -> None:
        if c.worker not in self.refused:
            raise Broken(f"{c}, and it was not")

    def _ReportSkipped(self, c: m.ReportSkipped) -> None:
        if c.cause != "boom":
            self.undisturbed.convicted(c.task, c.indices, c.unresolved)
        self.consumer.skipped(c)
