"""Going back by some batches, sentence by sentence. That the right batches come, whatever happens, the walks show."""

from __future__ import annotations

from safeloader.core import messages as m
from safeloader.core.state import WorkerPosition
from tests.core.stage import Stage, only
from tests.core.test_consumer import state_of


def with_three_got() -> Stage:
    stage = Stage(batches=9, size=2)
    stage.begin()
    for task in range(5):
        stage.load(task, snapshot=f"after {task}")
        if task < 3:
            stage.get()
    return stage


def test_only_the_worker_of_what_is_wanted_again_goes_back() -> None:
    stage = with_three_got()
    said = stage.tell(m.RewindRequested(1, True))
    assert only(m.RewindWorker, said) == [m.RewindWorker(1, 0, WorkerPosition(1, "after 0"))]
    assert [c.indices for c in only(m.SendTask, said)] == [[4, 5], [8, 9], [12, 13]]
    assert not only((m.PlanTask, m.CancelBefore), said), "the sampler, and the other worker, go on"
    state = state_of(stage)
    assert (state.batch, state.drawn, [p.batch for p in state.planned]) == (2, 7, [2, 3, 4, 5, 6])
    assert [(w.position, w.snapshot) for w in state.workers] == [(1, "after 0"), (1, "after 1")]
    assert not only(m.Deliver, stage.load(6, snapshot="too far")), "what it had in work"
    stage.tell(m.WorkerResumed(1, 0, 0.0))
    again = only(m.SendTask, said)[0].task
    stage.load(again, snapshot="after 2")
    assert isinstance(delivered := stage.get(), m.Deliver)
    assert delivered.task == again
    assert stage.get() == m.Deliver(3, "batch 3", stage.tasks[3].lease), "as it was loaded ahead"


def test_what_was_handed_over_and_not_received_comes_again_besides() -> None:
    stage = with_three_got()
    stage.tell(m.RewindRequested(1, False))
    assert [p.batch for p in state_of(stage).planned] == [1, 2, 3, 4, 5, 6]


def test_more_than_is_known_is_not_taken_back() -> None:
    stage = with_three_got()
    assert stage.sup.rewinding.known(True) == 3
    assert stage.sup.rewinding.known(False) == 2
    for batches, received in ((4, True), (3, False), (0, True)):
        assert not stage.tell(m.RewindRequested(batches, received))
    assert state_of(stage).batch == 3


def test_a_process_that_is_all_of_its_workers_begins_nothing_that_is_thrown_away() -> None:
    stage = Stage(batches=9, num_workers=1, prefetch_factor=3)
    stage.begin()
    stage.load(0)
    stage.get()
    said = stage.tell(m.RewindRequested(1, True))
    assert only(m.CancelBefore, said) == [m.CancelBefore(1, 4)]


def test_what_hurt_a_process_is_not_loaded_again_in_the_trainer() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, batches=3, on_bad_sample="skip", max_processes=0)
    stage.obey(stage.begin(ready=False))
    stage.ask()
    said = stage.tell(m.InlineInterrupted(0, 1, "stack"))
    for process in (1, 2):
        stage.bring_up(said)
        said = stage.die(process, task=0, sample=1)
    stage.bring_up(said)
    said = stage.load(0)
    assert only(m.Deliver, said)
    assert [c.process for c in only(m.HostWorker, said)] == [m.INLINE], "now that it did no harm"
    stage.obey(said)
    said = stage.tell(m.RewindRequested(1, True))
    assert only(m.DropWorker, said) == [m.DropWorker(m.INLINE, 0)]
    assert only(m.StartProcess, said) or only(m.SendTask, said)
    assert not only(m.LoadInline, said + stage.ask())
