"""Long random walks through the hostile world. A failing walk is named by its seed: ``Walk.of(seed).run()``."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from safeloader.core import messages as m
from safeloader.core.duplicate import duplicate
from safeloader.core.supervisor import Supervisor
from tests.core.plots import random_plot
from tests.core.walker import walk

CHUNK = 250


def walk_all(first: int, count: int) -> None:
    for seed in range(first, first + count):
        try:
            walk(seed)
        except AssertionError as error:
            raise AssertionError(f"walk {seed}: {error}") from error


@pytest.mark.parametrize("chunk", range(8))
def test_every_walk_ends_with_the_undisturbed_batches_and_nothing_left(chunk: int) -> None:
    walk_all(chunk * CHUNK, CHUNK)


@pytest.mark.stress
@pytest.mark.timeout(0)
@pytest.mark.parametrize("chunk", range(100))
def test_a_hundred_thousand_walks_end_well_too(chunk: int) -> None:
    walk_all(1_000_000 + chunk * 1000, 1000)


def test_the_walks_are_hostile_enough_to_meet_every_word_and_every_rung() -> None:
    met: Counter[str] = Counter()

    class Listening(Supervisor):
        def handle(self, event: m.Event, now: float) -> list[m.Command]:
            commands = super().handle(event, now)
            for message in (event, *commands):
                met[type(message).__name__] += 1
                if isinstance(message, m.ReportRung):
                    met[f"rung {message.old} to {message.new}"] += 1
                elif isinstance(message, (m.ReportFault, m.GiveUp)):
                    met[f"{type(message).__name__} {message.cause}"] += 1
                elif isinstance(message, (m.DeliverBadSample, m.ReportSkipped)):
                    met["unresolved"] += message.unresolved
            return commands

    received = sum(walk(seed, Listening).consumer.received for seed in range(600))
    words = {kind.__name__ for kind in (*m.EVENTS, *m.COMMANDS)}
    faults = {f"ReportFault {c}" for c in "died oom hung stopped failed_start raised unpicklable".split()}
    rungs = {"rung 4 to 2", "rung 2 to 1", "rung 1 to 0", "rung 0 to 1", "rung 1 to 2", "rung 2 to 4"}
    endings = {"GiveUp restarts", "GiveUp setup", "GiveUp refused", "GiveUp starts", "unresolved"}
    assert not (words | faults | rungs | endings) - met.keys()
    assert received > 1500


def test_the_plots_cover_every_setting() -> None:
    plots = [random_plot(random.Random(seed)).settings for seed in range(200)]

    def values(name: str) -> set[Any]:
        return {getattr(settings, name) for settings in plots}

    assert values("fallback") == {"inline", "process", "off"}
    assert values("in_order") == values("indexed") == values("batched") == values("shared") == {True, False}
    assert values("max_processes") == {None, 0, 1, 2}
    assert values("on_bad_sample") == {"raise", "skip"}
    assert "auto" in values("batch_timeout")


def test_a_duplicate_decides_as_the_supervisor_does_and_neither_notices_the_other() -> None:
    class Twins(Supervisor):
        """Has a duplicate that is told everything as well; now and then a new one, made by the last one."""

        twin: Any = None
        count = 0

        def handle(self, event: m.Event, now: float) -> list[m.Command]:
            self.count += 1
            if self.twin is None or self.count % 11 == 0:
                before, self.twin = self.twin, None
                self.twin = duplicate(self if before is None or self.count % 2 else before)
                self.twin.story = type(self.story)(1)
            wanted = Supervisor.handle(self.twin, event, now)
            commands = super().handle(event, now)
            assert wanted == commands, event
            self.twin.validate()
            return commands

    for seed in range(300):
        walk(seed, Twins)
