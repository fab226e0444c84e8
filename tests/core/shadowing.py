"""Shadows in the simulated world: copies of processes, which can be lost, get stuck, or come too late."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safeloader.core import messages as m

from .judges import Broken
from .simulated import SimProcess, SimWorker

if TYPE_CHECKING:
    import random

    from .obeying import Plot

__all__ = ["Shadowing", "SimShadow"]


@dataclass
class SimShadow:
    """A sleeping copy."""

    id: int
    home: int  # the process that it would stand in for
    homes: list[int]  # and all before
    workers: dict[int, SimWorker]
    released: set[int] = field(default_factory=set)  # workers that were set up without it since
    life: str = "asleep"  # "stuck", "dead" (not told), "lost" (told), "dropped"
    told: bool = False  # the supervisor knows of it


class Shadowing:
    """The part of the world that knows of shadows."""

    plot: Plot
    now: float
    rng: random.Random
    closed: bool
    rung: int
    sup: Any
    processes: dict[int, SimProcess]
    inline: dict[int, SimWorker]
    _events: deque[m.Event]
    tell: Any

    def _no_shadows(self) -> None:
        self.shadows: dict[int, SimShadow] = {}
        self.lost_shadows: deque[int] = deque()  # whose end is not told
        self.last_home: dict[int, int] = {}  # the last process of each worker
        self.left: set[int] = set()  # workers that moved away from their process
        self.changed: set[int] = set()  # workers whose dataset is known to have changed itself
        self.inexact: set[int] = set()  # workers whose dataset lost what it had changed in itself
        self.adopted = 0  # workers that went on from a shadow

    # ------------------------------------------------------------ what happens to them

    def take_shadow(self, process: SimProcess) -> None:
        """A process copies itself, perhaps, now that it has answered something."""
        if not self.plot.shadows or self.rng.random() >= self.plot.shadows or process.spare:
            return
        number = len(self.shadows) + 1
        self.shadows[number] = SimShadow(number, process.id, [process.id], copy.deepcopy(process.workers))
        process.outbox.append(m.ShadowTaken(process.id, number))

    def living_shadows(self) -> list[SimShadow]:
        return [shadow for shadow in self.shadows.values() if shadow.told and shadow.life in ("asleep", "stuck")]

    def lose_shadow(self, shadow: SimShadow) -> None:
        """It is killed, say for memory."""
        shadow.life = "dead"
        self.lost_shadows.append(shadow.id)

    def tell_of_lost_shadow(self) -> None:
        number = self.lost_shadows.popleft()
        if self.shadows[number].life == "dead":
            self.shadows[number].life = "lost"
            self.tell(m.ShadowLost(number))

    # ------------------------------------------------------------ what is done with them

    def _DropShadow(self, c: m.DropShadow) -> None:
        shadow = self.shadows[c.shadow]
        if shadow.life in ("dropped", "lost"):
            raise Broken(f"shadow {c.shadow} is {shadow.life}, and dropped")
        shadow.life = "dropped"

    def wake(self, command: m.StartProcess, process: SimProcess) -> None:
        """A process is made by a shadow: or not, where that is gone or stuck."""
        assert command.shadow is not None
        shadow = self.shadows[command.shadow]
        if shadow.life in ("dropped", "lost") or not shadow.told:
            raise Broken(f"{command}, and that shadow is {shadow.life}")
        if not self.processes[shadow.home].gone:
            raise Broken(f"{command}, and the process that it stands in for is not")
        process.shadowed = True
        shadow.home = command.process
        shadow.homes.append(command.process)
        process.workers = copy.deepcopy(shadow.workers)
        if shadow.life == "dead":
            process.die("how is not known")
        elif shadow.life == "stuck":
            process.life = "hung"

    def hosting(self, c: m.HostWorker) -> None:
        """A worker is set up: its shadow must be used where there is one."""
        worker = c.worker
        if c.process == m.INLINE or c.redo is None or c.as_new is not None:
            if (
                c.process != m.INLINE
                and self.rung == self.sup.fleet.rungs[0]
                and any(self._could_serve(s, c) for s in self.living_shadows())
            ):
                raise Broken(f"{c}, and there is a shadow of worker {worker}")
            if c.as_new is None and self.sup.workers[worker].search is None:
                self.changed.discard(worker)  # nothing of it is missing, or that was told
            for shadow in self.shadows.values():
                shadow.released.add(worker)
            if self.nature.iterable and c.as_new is None and (c.position or c.epoch):
                if self.sup.workers[worker].begun and self.sup.workers[worker].done is not None and self.nature.hidden:
                    raise Broken(f"{c}, and what earlier epochs left in it is known")
                self.inexact.add(worker)
        else:
            self.adopted += 1
            self.processes[c.process].redone.add(worker)
        self.left.discard(worker)
        self.last_home[worker] = c.process

    def kept_changes(self) -> set[int]:
        """Workers whose dataset has changed itself, and lives in a process, or in the trainer."""
        return {worker for number in (m.INLINE, *self.processes) for worker in self.changed & self._lodgers(number)}

    def _lodgers(self, process: int) -> set[int]:
        """The workers that live there, as the supervisor knows."""
        if process == m.INLINE:
            return set(self.inline)
        return set() if self.processes[process].gone else self.processes[process].lodgers

    def _could_serve(self, shadow: SimShadow, c: m.HostWorker) -> bool:
        """It sleeps behind the last home of the worker: which is gone, or has seen what the stream must not know of."""
        home = self.last_home.get(c.worker)
        holds = c.worker in shadow.workers and c.worker not in shadow.released
        if shadow.life != "asleep" or not holds or home not in shadow.homes:
            return False
        return c.process == shadow.home or (c.worker not in self.left and self.processes[home].gone)

    def check_shadows_gone(self) -> None:
        """At the end."""
        if left := [shadow.id for shadow in self.living_shadows()]:
            raise Broken(f"shadows {left} are left")
