"""What an observer sees of the supervisor."""

from __future__ import annotations

import pytest

from safeloader.core import messages as m
from safeloader.core.records import ProcessState
from safeloader.core.supervisor import Supervisor
from tests.core.stage import Stage
from tests.core.walker import walk


def test_a_view_tells_what_is_due_what_is_ready_and_who_works_where() -> None:
    stage = Stage(num_workers=2, prefetch_factor=2)
    stage.begin(ready=False)
    stage.ready(1)
    stage.load(0)
    seen = stage.sup.view()
    assert (seen.epoch, seen.ready, seen.due and seen.due.id) == (0, 1, 1)
    assert [(w.process, w.state, w.queued) for w in seen.workers] == [
        (1, ProcessState.READY, 1),
        (2, ProcessState.STARTING, 2),
    ]
    assert seen.tasks[2] == (2, 0, 2, 0, [8, 9, 10, 11], 0)


def test_a_view_stays_as_it_was_when_it_was_taken() -> None:
    stage = Stage()
    stage.begin()
    seen = stage.sup.view()
    stage.die(1, task=0)
    stage.load(1)
    assert seen.due is not None and (seen.due.id, seen.due.attempts) == (0, 0)
    assert seen.workers[0].process == 1
    assert stage.sup.view().tasks[0].attempts == 1


def test_before_the_first_epoch_and_at_its_end_nothing_is_due() -> None:
    stage = Stage(batches=1)
    assert stage.sup.view()[:3] == (-1, None, 0)
    stage.begin()
    stage.load(0)
    stage.get()
    assert stage.sup.view()[:3] == (0, None, 0)
    assert stage.sup.view().tasks == {}


def test_a_worker_whose_process_went_meanwhile_is_a_key_error() -> None:
    stage = Stage()
    stage.begin()
    del stage.sup.fleet.processes[1]
    with pytest.raises(KeyError):
        stage.sup.view()


def test_looking_changes_nothing_and_agrees_with_the_books_in_all_walks() -> None:
    class Observed(Supervisor):
        def handle(self, event: m.Event, now: float) -> list[m.Command]:
            commands = super().handle(event, now)
            seen = self.view()
            assert seen == self.view()
            assert seen.tasks.keys() == self.tasks.keys()
            assert [worker.process for worker in seen.workers] == [worker.host for worker in self.workers]
            assert seen.due is None or seen.due.id in self.tasks
            return commands

    for seed in range(100):
        walk(seed, Observed)
