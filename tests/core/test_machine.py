"""Hypothesis plays the hostile world: it chooses what happens next, and shrinks what fails to a short story."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from safeloader.core.messages import ClockAdvanced, CloseRequested, LeaseReturned
from safeloader.core.policy import CoreSettings
from tests.core.plots import CALM
from tests.core.simulated import Nature, SimProcess
from tests.core.walker import Walk
from tests.core.world import Plot, World

EPOCHS = 3
some_number = st.integers(0, 7)  # picks one of those at hand
few_samples = st.frozensets(st.integers(0, 30), max_size=2)


@st.composite
def plots(draw: st.DrawFn) -> Plot:
    workers, iterable = draw(st.integers(1, 3)), draw(st.booleans())
    core = CoreSettings(
        num_workers=workers,
        prefetch_factor=draw(st.integers(1, 2)),
        in_order=draw(st.booleans()),
        indexed=not iterable,
        batch_timeout=10.0,
        startup_timeout=30.0,
        max_restarts=draw(st.integers(0, 3)),
        restart_period=60.0,
        fallback=draw(st.sampled_from(["inline", "process", "off"])),
        recover_after=draw(st.sampled_from([1, 2, 1000])),
        on_bad_sample=draw(st.sampled_from(["raise", "skip"])),
        bad_sample_attempts=draw(st.integers(1, 2)),
        max_processes=draw(st.sampled_from([None, 0, 1])),
        stateful=draw(st.booleans()),
        on_divergence=draw(st.sampled_from(["raise", "warn"])),
        shared=draw(st.booleans()),
        standby=draw(st.integers(0, 2)),
    )
    stateless = not iterable and not core.stateful and draw(st.booleans())
    core = replace(core, stateless=stateless)
    shadows = 0.0 if core.shared else draw(st.sampled_from([0.0, 0.3, 1.0]))
    nature = Nature(
        iterable=iterable,
        stateless=stateless,
        lengths=tuple(draw(st.integers(0, 4)) for _ in range(workers)) if iterable else (),
        iter_moves=draw(st.booleans()),
        kills=draw(few_samples),
        hangs=draw(few_samples),
        raises=draw(few_samples),
        skip_raising=core.on_bad_sample == "skip" and not iterable,
        stateful=core.stateful,
        known=draw(st.booleans()),
        hidden=shadows > 0 and not (core.stateful or stateless) and draw(st.booleans()),
        lasting=draw(st.sampled_from([frozenset(), frozenset([0]), frozenset(range(workers))])),
        lying=core.stateful and draw(st.booleans()),
        shaky=draw(st.frozensets(st.integers(0, 2), max_size=1)) if iterable else frozenset(),
    )
    return Plot(core, nature, batches=draw(st.integers(0, 8)), batch_size=draw(st.integers(1, 4)), shadows=shadows)


class Machine(RuleBasedStateMachine):
    """One world, one thing at a time."""

    world: World

    @initialize(plot=plots(), seed=st.integers(0, 1000))
    def begin(self, plot: Plot, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(plot, self.rng)
        self.world.consumer.begin()

    def _process(self, number: int) -> SimProcess | None:
        alive = [p for p in self.world.processes.values() if p.life != "dead"]
        return alive[number % len(alive)] if alive else None

    # ------------------------------------------------------------ the ordinary

    @precondition(lambda self: not self.world.closed and not self.world.awaited)
    @rule()
    def ask(self) -> None:
        if not self.world.consumer.over:
            self.world.consumer.request()
        elif self.world.consumer.epoch + 1 < EPOCHS:
            self.world.consumer.begin()

    @precondition(lambda self: self.world.movable())
    @rule(number=some_number, steps=st.integers(1, 8), seconds=st.sampled_from([0.01, 2.0]))
    def work(self, number: int, steps: int, seconds: float) -> None:
        movable = self.world.movable()
        process = movable[number % len(movable)]
        for _ in range(steps):
            if process.can_move:
                self.world.move(process, seconds)

    @precondition(lambda self: self.world.hearable())
    @rule(number=some_number, messages=st.integers(1, 4))
    def hear(self, number: int, messages: int) -> None:
        for _ in range(messages):
            if hearable := self.world.hearable():
                self.world.hear(hearable[number % len(hearable)])

    @precondition(lambda self: self.world.killable())
    @rule(number=some_number)
    def reap(self, number: int) -> None:
        killable = self.world.killable()
        killable[number % len(killable)].die("SIGKILL")

    @precondition(lambda self: self.world.captures)
    @rule()
    def read_stacks(self) -> None:
        self.world.tell(self.world.captures.popleft())

    @precondition(lambda self: self.world.consumer.held)
    @rule(number=some_number)
    def drop_a_batch(self, number: int) -> None:
        held = self.world.consumer.held
        self.world.consumer.release(number % len(held))

    @rule()
    def let_time_pass(self) -> None:
        if self.world.sup.next_deadline() < float("inf"):
            self.world.jump()
        else:
            self.world.now += 100.0
            self.world.tell(ClockAdvanced())

    # ------------------------------------------------------------ misfortunes

    @rule(
        number=some_number,
        lost=st.integers(0, 2),
        detail=st.sampled_from(["SIGKILL", "exit code 0"]),
        oom=st.booleans(),
    )
    def a_process_dies(self, number: int, lost: int, detail: str, oom: bool) -> None:
        if process := self._process(number):
            process.die(detail, memory_short=oom, lost=lost)

    @precondition(lambda self: self.world.living_shadows())
    @rule(number=some_number, stuck=st.booleans())
    def a_shadow_is_lost(self, number: int, stuck: bool) -> None:
        shadows = self.world.living_shadows()
        if stuck:
            shadows[number % len(shadows)].life = "stuck"
        else:
            self.world.lose_shadow(shadows[number % len(shadows)])

    @precondition(lambda self: self.world.lost_shadows)
    @rule()
    def the_loss_of_a_shadow_is_told(self) -> None:
        self.world.tell_of_lost_shadow()

    @rule(number=some_number, life=st.sampled_from(["hung", "stopped"]))
    def a_process_falls_silent(self, number: int, life: str) -> None:
        if process := self._process(number):
            process.life = life

    @rule(number=some_number)
    def a_process_cannot_be_killed(self, number: int) -> None:
        if process := self._process(number):
            process.unkillable = True

    @precondition(lambda self: self.world.lendable())
    @rule(number=some_number, stuck=st.booleans())
    def a_neighbour_takes_a_process(self, number: int, stuck: bool) -> None:
        lendable = self.world.lendable()
        process = lendable[number % len(lendable)]
        if process.life == "up":
            self.world.lend(process, stuck)

    @precondition(lambda self: self.world.lent())
    @rule(number=some_number)
    def a_neighbour_is_done(self, number: int) -> None:
        lent = self.world.lent()
        self.world.come_back(lent[number % len(lent)])

    @precondition(lambda self: self.world.stuck_elsewhere() or self.world.lendable())
    @rule(number=some_number, told=st.booleans())
    def a_neighbour_has_a_process_killed(self, number: int, told: bool) -> None:
        candidates = self.world.stuck_elsewhere() or self.world.lendable()
        self.world.forfeit(candidates[number % len(candidates)], told)

    @precondition(lambda self: self.world.past)
    @rule(number=st.integers(0, 39))
    def a_message_comes_again(self, number: int) -> None:
        self.world.repeat(self.world.past[number % len(self.world.past)])

    @precondition(lambda self: self.world.consumer.returned)
    @rule(number=some_number)
    def a_lease_comes_back_again(self, number: int) -> None:
        returned = self.world.consumer.returned
        self.world.tell(LeaseReturned(returned[number % len(returned)]))

    @rule()
    def ghosts_write(self) -> None:
        for process in self.world.processes.values():
            if process.gone and process.life != "dead":
                self.world.haunt(process)

    @precondition(lambda self: not self.world.closed and not self.world.state_wanted)
    @precondition(lambda self: self.world.consumer.epoch + 1 < EPOCHS)
    @rule()
    def the_consumer_begins_anew(self) -> None:
        self.world.consumer.begin()

    @rule(sure=st.integers(0, 5))
    def close(self, sure: int) -> None:
        if sure == 5:
            self.world.tell(CloseRequested())

    @precondition(lambda self: not self.world.state_wanted)
    @rule(received=st.booleans())
    def the_state_is_wanted(self, received: bool) -> None:
        self.world.ask_for_state(received or self.world.consumer.waiting)

    @precondition(lambda self: self.world.state is not None)
    @rule()
    def another_program_goes_on(self) -> None:
        self.world.go_on_elsewhere()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def somebody_can_go_on(self) -> None:
        if hasattr(self, "world"):
            self.world.check_alive()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        walk = Walk(self.world, self.rng, CALM, EPOCHS)
        walk.calm()
        walk.end()


CALMLY = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestMachine: Any = Machine.TestCase
TestMachine.settings = CALMLY


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_hypothesis_plays_for_long() -> None:
    run_state_machine_as_test(Machine, settings=settings(CALMLY, max_examples=5000, derandomize=False))
