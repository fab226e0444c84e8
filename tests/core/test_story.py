from __future__ import annotations

import gc
import pickle
import weakref
from typing import Any

import pytest

from safeloader.core import messages as m
from safeloader.core.policy import CoreSettings
from safeloader.core.story import Entry, Story
from safeloader.core.story_lines import story_lines
from safeloader.core.supervisor import Supervisor
from tests.core.stage import Stage
from tests.core.walker import walk


class Remembering(Supervisor):
    """Forgets nothing."""

    def __init__(self, settings: CoreSettings) -> None:
        super().__init__(settings, story_length=1_000_000)


@pytest.mark.parametrize("seed", range(40))
def test_a_dumped_story_replays_to_the_same_commands(seed: int) -> None:
    supervisor = walk(seed, Remembering).sup
    assert supervisor.story.complete
    settings, entries = pickle.loads(pickle.dumps((supervisor.settings, supervisor.story.entries())))
    again = Remembering(settings)
    for entry in entries:
        again.handle(entry.event, entry.now)
    assert again.story.entries() == entries


def test_the_story_is_bounded_and_says_whether_it_is_complete() -> None:
    story = Story(3)
    complete = []
    for second in range(4):
        story.add(float(second), m.ClockAdvanced(), [])
        complete.append(story.complete)
    assert complete == [True, True, True, False]
    assert [entry.now for entry in story.entries()] == [1.0, 2.0, 3.0]
    assert story.total == 4


def test_the_story_keeps_no_batch_and_no_exception_alive() -> None:
    class Batch:
        pass

    class Failure(Exception):
        pass

    stage = Stage(num_workers=1)
    stage.begin()
    batch, failure = Batch(), Failure()
    died: list[Any] = [weakref.ref(batch), weakref.ref(failure)]
    events: list[m.Event] = [
        m.BatchRequested(),
        m.TaskLoaded(1, 0, batch, 0, None, 0.0, 0.0),
        m.TaskRaised(1, 1, failure, "raised", None, None, 0.0),
        m.BatchRequested(),
    ]
    for event in events:
        stage.sup.handle(event, 0.0)
    del batch, failure, event, events
    gc.collect()
    assert [ref() for ref in died] == [None, None]
    told = [c for entry in stage.sup.story.entries() for c in entry.commands]
    assert m.Deliver(0, "batch", None) in told
    assert m.DeliverError(1, 0, "error") in told


def test_a_batch_that_lies_in_its_lease_is_told_as_it_came() -> None:
    story, lease = Story(10), m.Lease(3, 7)
    event, command = m.TaskLoaded(1, 0, b"where", 64, None, 0.0, 0.0), m.Deliver(0, b"where", lease)
    story.add(0.0, event, [command])
    assert story.entries() == [Entry(0.0, event, (command,))]


def test_the_story_of_a_task_is_told_in_plain_lines() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1)
    stage.begin()
    stage.now = 2.0
    stage.die(1, task=0, detail="SIGKILL")
    lines = story_lines(stage.sup.story.entries(), 0, lambda number: f"process {4710 + number}")
    assert lines == [
        "   -2.000 s  the batch is sent to process 4711, for worker 0",
        "   +0.000 s  process 4711 died (SIGKILL): the batch is loaded again",
    ]
    assert story_lines(stage.sup.story.entries(), 99, str) == []
    assert story_lines([], 0, str) == []


def test_every_event_is_handled_open_and_closed() -> None:
    samples: dict[type, Any] = {
        m.EpochBegan: (0,), m.TaskPlanned: ([0],), m.PlanEnded: (), m.BatchRequested: (),
        m.LeaseReturned: (m.Lease(9, 9),), m.ProcessReady: (7,), m.WorkerReady: (7, 0, 0.0),
        m.WorkerResumed: (7, 0, 0.0), m.TaskLoaded: (7, 0, None, 0, None, 0.0, 0.0),
        m.TaskRaised: (7, 0, None, "raised", None, None, 0.0), m.WorkerEnded: (7, 0, None, 0.0),
        m.TaskCancelled: (7, 0, 0.0), m.ProbeFinished: (7, 0, 0.0),
        m.ProcessInspected: (7, None, None, None, 0.0, 0.0, "R"),
        m.ProcessLostElsewhere: (7,), m.StacksCaptured: (7, ""), m.StartRefused: (7, None),
        m.ProcessExited: (7, "", None, None, None, None, False), m.InlineInterrupted: (0, None, None),
        m.InlineRefused: (0, ""), m.WorkerDiverged: (7, 0, 0.0, "differs", 0),
        m.ShadowTaken: (7, 1), m.ShadowLost: (1,), m.WorkerChanged: (7, 0), m.WorkerUnchanged: (7, 0),
        m.ClockAdvanced: (), m.CloseRequested: (), m.StateRequested: (True,), m.RewindRequested: (1, True), m.WorkerMarked: (7, 0, None),
    }  # fmt: skip
    assert set(samples) == set(m.EVENTS) - {m.EpochResumed}  # that can only come first
    supervisor = Supervisor(CoreSettings(num_workers=1))
    for _ in range(2):  # the last event closes
        for kind, fields in samples.items():
            supervisor.handle(kind(*fields), 0.0)
            supervisor.validate()
