"""Random walks through the world: which plot, which hostility, and what happens next. A walk is its seed."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from safeloader.core.messages import BatchRequested, ClockAdvanced, CloseRequested, LeaseReturned
from safeloader.core.supervisor import Supervisor

from .plots import Hostility, random_hostility, random_plot
from .simulated import SimProcess
from .world import Broken, World

__all__ = ["Walk", "walk"]


class Walk:
    """One random walk through a world.

    Args:
        world: where.
        rng: decides what happens.
        hostility: how bad it gets.
        epochs: how many the consumer wants.
    """

    def __init__(self, world: World, rng: random.Random, hostility: Hostility, epochs: int) -> None:
        self.world = world
        self.rng = rng
        self.hostility = hostility
        self.epochs = epochs

    @classmethod
    def of(cls, seed: int, supervisor: Any = Supervisor) -> Walk:
        """The walk with this number."""
        rng = random.Random(seed)
        plot, hostility = random_plot(rng), random_hostility(rng)
        if plot.settings.indexed and not plot.settings.stateful:
            hostility = replace(hostility, rewind=(0.0, 0.0, 0.05)[plot.nature.seed // 13 % 3])
        epochs = rng.randrange(1, 5) + plot.nature.iterable
        return cls(World(plot, rng, supervisor), rng, hostility, epochs)

    def run(self, steps: int = 250) -> World:
        """Walk, then let the world calm down and see whether everything comes to its end."""
        world = self.world
        world.consumer.begin()
        for _ in range(steps):
            if world.closed and world.state is None:
                break
            self.step()
            world.check_alive()
        else:
            self.calm()
        self.end()
        return world

    def step(self) -> None:
        """Let one thing happen."""
        if self.world.state is not None:
            self.world.go_on_elsewhere()
        chance, hostile = self.rng.random(), self.hostility
        for rate, misfortune in (
            (hostile.death, self.death),
            (hostile.hang, self.hang),
            (hostile.absence, self.absence),
            (hostile.impatience, self.world.jump if self.world.sup.next_deadline() < 1e9 else self.absence),
            (hostile.stale, self.stale),
            (hostile.break_off, self.break_off),
            (hostile.close, self.close),
            (hostile.move, self.ask_for_state),
            (hostile.rewind, self.take_back),
            (hostile.neighbours * self.world.plot.settings.shared, self.neighbour),
        ):
            if chance < rate:
                misfortune()
                return
            chance -= rate
        self.ordinary()

    def ordinary(self) -> None:
        """What happens on a good day: steps, messages, requests, deaths of the killed, and the clock."""
        world, rng = self.world, self.rng
        hearable, movable, killable = world.hearable(), world.movable(), world.killable()
        consumer = world.consumer
        choices: list[Any] = []
        if hearable:
            choices += [lambda: world.hear(rng.choice(hearable))] * 3
        if movable:
            choices += [lambda: self.work(rng.choice(movable))] * 3
        if killable:
            choices.append(lambda: rng.choice(killable).die("SIGKILL", rng.random() < 0.1))
        if world.lost_shadows:
            choices.append(world.tell_of_lost_shadow)
        if world.captures:
            choices.append(lambda: world.tell(world.captures.popleft()))
        if not world.awaited:
            choices.append(self.next_request)
        if lent := world.lent():
            choices.append(lambda: world.come_back(rng.choice(lent)))
        if stuck := world.stuck_elsewhere():
            choices.append(lambda: world.forfeit(rng.choice(stuck), rng.random() < 0.5))
        if consumer.held and rng.random() < 0.5 and (not self.hostility.hoard or self.hoarded_enough()):
            choices.append(lambda: consumer.release(rng.randrange(len(consumer.held))))
        if any(p.condemned and p.can_move and not p.killed for p in movable):  # a false alarm in the making
            choices += [lambda: self.work(rng.choice(movable)), self.break_off]
        if world.now >= world.sup.next_deadline():
            choices.append(lambda: world.tell(ClockAdvanced()))
        if choices:
            rng.choice(choices)()
        elif world.sup.next_deadline() < float("inf"):
            world.jump()

    def hoarded_enough(self) -> bool:
        """Whether the consumer, which keeps what it gets, drops all of it now."""
        if self.rng.random() < 0.02:
            while self.world.consumer.held:
                self.world.consumer.release(0)
        return False

    def work(self, process: SimProcess) -> None:
        """A process does a few steps, fast or slowly."""
        seconds = self.rng.choice((0.01, 0.1, 2.0))
        for _ in range(self.rng.choice((1, 2, 4, 8))):
            if process.can_move:
                self.world.move(process, seconds)

    def next_request(self) -> None:
        consumer = self.world.consumer
        if not consumer.over:
            consumer.request()
        elif consumer.epoch + 1 < self.epochs:
            consumer.begin()
        elif self.rng.random() < 0.1:
            consumer.request()  # once more past the end: told so again
        elif self.rng.random() < 0.1:
            self.close()

    # ------------------------------------------------------------ misfortunes

    def _alive(self) -> list[SimProcess]:
        return [p for p in self.world.processes.values() if p.life != "dead"]

    def death(self) -> None:
        if self.world.plot.shadows and self.rng.random() < 0.3 and (shadows := self.world.living_shadows()):
            shadow = self.rng.choice(shadows)
            if shadow.life == "asleep" and self.rng.random() < 0.3:
                shadow.life = "stuck"
            else:
                self.world.lose_shadow(shadow)
        elif alive := self._alive():
            rng = self.rng
            detail = rng.choice(("SIGKILL", "SIGSEGV", "exit code 0"))
            rng.choice(alive).die(detail, detail == "SIGKILL" and rng.random() < 0.3, lost=rng.choice((0, 0, 1, 2)))

    def hang(self) -> None:
        if alive := self._alive():
            self.rng.choice(alive).life = self.rng.choice(("hung", "hung", "stopped"))

    def absence(self) -> None:
        """The trainer is busy elsewhere for long; the processes go on meanwhile."""
        for _ in range(self.rng.randrange(8)):
            if movable := self.world.movable():
                self.world.move(self.rng.choice(movable), 1.0)
        self.world.now += self.rng.choice((1.0, 8.0, 200.0))

    def neighbour(self) -> None:
        """Another loader of the pool has a process work, or is the end of it."""
        if lendable := self.world.lendable():
            process, rng = self.rng.choice(lendable), self.rng
            if process.life == "up" and rng.random() < 0.8:
                self.world.lend(process, stuck=rng.random() < 0.3)
                self.world.now += rng.choice((0.1, 3.0, 30.0))
            else:
                self.world.forfeit(process, told=rng.random() < 0.5)

    def stale(self) -> None:
        world, rng = self.world, self.rng
        if world.past and rng.random() < 0.5:
            world.repeat(rng.choice(world.past))
        elif world.consumer.returned:
            world.tell(LeaseReturned(rng.choice(world.consumer.returned)))
        for process in world.processes.values():
            if process.gone and process.life != "dead":
                world.haunt(process)

    def break_off(self) -> None:
        if self.world.consumer.epoch + 1 < self.epochs and not self.world.state_wanted:
            self.world.consumer.begin()

    def close(self) -> None:
        self.world.tell(CloseRequested())

    def take_back(self) -> None:
        """The consumer wants its last batches again; at times an interrupt came before the last of them."""
        received = self.world.consumer.waiting or self.rng.random() < 0.7
        self.world.take_back(self.rng.randrange(1, 5), received)

    def ask_for_state(self) -> None:
        """The state is wanted, to go on elsewhere; at times the loader is ended first."""
        world = self.world
        received = world.consumer.waiting or self.rng.random() < 0.7
        if self.rng.random() < 0.2:
            world.tell(CloseRequested())
        if not world.state_wanted:
            world.ask_for_state(received)

    # ------------------------------------------------------------ the end

    def calm(self, steps: int = 2000) -> None:
        """No new misfortune: the consumer must get its epoch, or an error, in bounded time."""
        world = self.world
        for process in self._alive():
            process.unkillable = process.unkillable and process.killed
        for _ in range(steps):
            if world.state is not None:
                world.go_on_elsewhere()
            if world.closed or (world.consumer.over and world.consumer.epoch + 1 >= self.epochs):
                return
            world.check_alive()
            self.ordinary()
        raise Broken("it does not come to an end")

    def end(self) -> None:
        """Close, and see that nothing is left."""
        world, sup = self.world, self.world.sup
        world.tell(CloseRequested())
        if world.given_up is not None and world.given_up not in sup.handle(BatchRequested(), world.now):
            raise Broken("whoever asks again waits forever")
        for _ in range(2000):
            hearable, movable, killable = world.hearable(), world.movable(), world.killable()
            if hearable:
                world.hear(hearable[0])
            elif movable and self.rng.random() < 0.9:
                world.move(movable[0])
            elif killable:
                killable[0].die("SIGKILL")
            elif sup.next_deadline() < float("inf"):
                world.jump()
            else:
                break
        left = [p.id for p in world.processes.values() if not p.gone]
        if left or sup.next_deadline() < float("inf"):
            raise Broken(f"processes {left} are left")
        world.check_shadows_gone()
        while world.consumer.held:
            world.consumer.release(0)
        sup.handle(world.consumer.asking(), world.now)
        sup.validate()
        if sup.leases.held:
            raise Broken(f"{sup.leases.held} leases are left")


def walk(seed: int, supervisor: Any = Supervisor) -> World:
    """One walk from beginning to end.

    Raises:
        Broken: the supervisor did something wrong.
    """
    return Walk.of(seed, supervisor).run()
