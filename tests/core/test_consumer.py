"""The state, sentence by sentence. That it is the right one, whatever happens, the walks show."""

from __future__ import annotations

from safeloader.core import messages as m
from safeloader.core.state import DatasetSnapshot, PlannedTask, State
from tests.core.stage import Stage, only


def state_of(stage: Stage, received: bool = True) -> State:
    told = only(m.GiveState, stage.tell(m.StateRequested(received)))
    assert len(told) == 1
    assert told[0].state is not None
    return told[0].state  # type: ignore[no-any-return]


def test_what_was_prefetched_is_planned_and_what_was_handed_over_is_got_once_it_was_received() -> None:
    stage = Stage(batches=6, size=2)
    stage.begin()
    for task in range(4):
        stage.load(task, snapshot=f"after {task}")
    stage.get()
    unreceived, received = state_of(stage, received=False), state_of(stage)
    assert (unreceived.batch, received.batch) == (0, 1)
    assert [p.batch for p in unreceived.planned] == [0, 1, 2, 3, 4]
    assert received.planned[0] == PlannedTask(1, 1, [2, 3])
    assert unreceived.workers[0].snapshot is None
    assert [w.snapshot for w in received.workers] == ["after 0", None]


def test_another_supervisor_goes_on_with_the_same_tasks_and_draws() -> None:
    stage = Stage(batches=6, size=2)
    stage.begin()
    for task in range(3):
        stage.load(task, snapshot=f"after {task}")
        stage.get()
    state = state_of(stage)
    other = Stage(batches=6, size=2, max_processes=1)
    other.drawn = state.drawn
    said = other.tell(m.EpochResumed(state))
    assert not only(m.PlanTask, said), "the sampler had said that it has no more"
    said += other.ready(1)
    assert [(c.position, c.snapshot) for c in only(m.HostWorker, said)] == [(1, "after 1"), (2, "after 2")]
    assert [c.indices for c in only(m.SendTask, said)] == [[6, 7], [8, 9], [10, 11]]
    assert state_of(other) == state


def test_a_smaller_window_draws_nothing_until_what_was_planned_fits() -> None:
    stage = Stage(batches=20, prefetch_factor=4)
    stage.begin()
    state = state_of(stage)
    other = Stage(batches=20, prefetch_factor=1)
    other.drawn = state.drawn
    other.bring_up(other.tell(m.EpochResumed(state)))
    for task in range(8):
        other.load(task)
        drawn = len(only(m.PlanTask, other.ask()))
        assert drawn == (1 if task >= 6 else 0), task


def test_the_epochs_end_is_a_state_and_the_next_epoch_follows() -> None:
    stage = Stage(batches=2)
    stage.begin()
    for task in range(2):
        stage.load(task, snapshot=f"after {task}")
        stage.get()
    assert not state_of(stage).over
    assert stage.get() == m.EndEpoch()
    state = state_of(stage)
    assert state.over
    other = Stage(batches=2)
    said = other.tell(m.EpochResumed(state), m.EpochBegan(1))
    said += other.bring_up(said)
    assert [c.snapshot for c in only(m.HostWorker, said)] == ["after 0", "after 1"]
    assert len(only(m.ResumeWorker, said)) == 2
    assert len(only(m.SendTask, said)) == 0 or all(c.task < 2 for c in only(m.SendTask, said))


def test_who_asks_while_a_worker_has_not_begun_the_epoch_waits_for_it() -> None:
    stage = Stage(batches=9, max_processes=1)
    stage.begin()
    stage.begin()
    assert not only(m.GiveState, stage.tell(m.StateRequested(True)))
    said = [c for _ in range(7) for c in stage.answer(1)]
    assert len(only(m.GiveState, said)) == 1


def test_a_dataset_is_set_up_from_its_last_mark_and_the_tasks_since() -> None:
    stage = Stage(num_workers=1, prefetch_factor=4, stateful=True)
    stage.begin()
    stage.load(0, snapshot="a")
    stage.tell(m.WorkerMarked(1, 0, "after 0"))
    stage.load(1, snapshot="b")
    stage.load(2, snapshot="c")
    stage.get()
    stage.get()
    standing = state_of(stage).workers[0]
    assert (standing.mark, standing.replay) == (DatasetSnapshot(1, "after 0", "a"), (([4, 5, 6, 7], ()),))
    said = stage.die(1)
    said += stage.bring_up(said)
    host = only(m.HostWorker, said)[0]
    assert (host.mark, host.snapshot) == (DatasetSnapshot(1, "after 0", "a"), "c")
    assert [indices for indices, _ in host.replay] == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_mark_ahead_of_the_consumer_is_for_faults_only() -> None:
    stage = Stage(num_workers=1, prefetch_factor=4, stateful=True)
    stage.begin()
    for task in range(3):
        stage.load(task)
        stage.tell(m.WorkerMarked(1, 0, f"after {task}"))
    standing = state_of(stage).workers[0]
    assert (standing.position, standing.mark, standing.replay) == (0, None, ())
    stage.get()
    assert state_of(stage).workers[0].mark == DatasetSnapshot(1, "after 0", None)


def test_what_was_found_bad_is_left_out_elsewhere_too() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, batches=1, on_bad_sample="skip")
    said = stage.begin()
    process = 1
    for _ in range(3):
        said = stage.die(process, task=0, sample=2)
        process += 1
        said += stage.bring_up(said)
    state = state_of(stage)
    assert state.planned[0].skip == (2,)
    other = Stage(num_workers=1, prefetch_factor=1, batches=1, on_bad_sample="skip")
    other.drawn = state.drawn
    said = other.bring_up(other.tell(m.EpochResumed(state)))
    assert [c.skip for c in only(m.SendTask, said)] == [(2,)]


def test_the_state_outlives_the_loader() -> None:
    stage = Stage(batches=6)
    stage.begin()
    stage.load(0)
    stage.get()
    stage.tell(m.CloseRequested())
    assert state_of(stage).batch == 1
    assert state_of(stage, received=False).batch == 0


def test_what_deadlines_learned_goes_along() -> None:
    stage = Stage(batch_timeout="auto")
    stage.begin()
    sent = stage.tasks[0]
    stage.tell(m.TaskLoaded(sent.process, 0, "batch", 64, None, 0.0, 3.0))
    assert state_of(stage).slowest == (0.0, 3.0)
    other = Stage(batch_timeout="auto")
    other.tell(m.EpochResumed(state_of(stage)))
    assert other.sup.watch.deadlines.batch(0, first=True) == 15.0
