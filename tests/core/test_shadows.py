"""Shadows: a process that is lost goes on from its copy, and what it did since is done again."""

from __future__ import annotations

from typing import Any

import pytest

from safeloader.core import messages as m
from safeloader.core import new_copy
from safeloader.core.deadlines import FORK_TIMEOUT
from safeloader.core.state import AsNew, Redo
from tests.core.stage import Stage, only


def shadowed(**settings: Any) -> Stage:
    """Two workers on two processes; the first has finished task 0, and then copied itself (shadow 7)."""
    stage = Stage(**settings)
    stage.begin()
    stage.load(0, snapshot="after 0")
    stage.tell(m.ShadowTaken(1, 7))
    return stage


def started(said: list[m.Command]) -> m.StartProcess:
    (start,) = only(m.StartProcess, said)
    return start


def test_the_shadow_makes_the_next_process_and_what_was_done_since_is_done_again() -> None:
    stage = shadowed()
    stage.ask()
    stage.load(2, snapshot="after 2")
    said = stage.die(1, task=4)
    start = started(said)
    assert start.shadow == 7
    (fault,) = only(m.ReportFault, said)
    assert fault.action == "restored"
    (host,) = only(m.HostWorker, stage.ready(start.process))
    assert (host.worker, host.redo, host.snapshot) == (0, (Redo(None, [8, 9, 10, 11], ()),), "after 2")
    assert only(m.DropShadow, stage.commands) == []


def test_the_shadow_serves_again_until_there_is_a_newer_one() -> None:
    stage = shadowed()
    first = started(stage.die(1, task=2))
    stage.ready(first.process)
    stage.load(2)
    second = started(stage.die(first.process))
    assert second.shadow == 7
    (host,) = only(m.HostWorker, stage.ready(second.process))
    assert host.redo == (Redo(None, [8, 9, 10, 11], ()),)
    assert stage.tell(m.ShadowTaken(second.process, 8)) == [m.DropShadow(7)]
    third = started(stage.die(second.process))
    assert third.shadow == 8
    (host,) = only(m.HostWorker, stage.ready(third.process))
    assert host.redo == ()


def test_a_shadow_that_is_gone_is_not_asked() -> None:
    stage = shadowed()
    stage.tell(m.ShadowLost(7))
    said = stage.die(1, task=2)
    assert started(said).shadow is None
    assert only(m.DropShadow, said) == []
    assert only(m.ReportFault, said)[0].action == "restarted"


def test_a_shadow_lost_with_its_process_leaves_the_ordinary_way() -> None:
    stage = shadowed()
    made = started(stage.die(1, task=2))
    stage.tell(m.ShadowLost(7))
    again = started(stage.die(made.process, detail="how is not known"))
    assert again.shadow is None
    (host,) = only(m.HostWorker, stage.ready(again.process))
    assert (host.redo, host.as_new) == ((Redo(None, [0, 1, 2, 3]),), AsNew(0, 0, None))


def test_a_successor_that_was_made_needs_its_shadow_no_more() -> None:
    stage = shadowed()
    made = started(stage.die(1, task=2))
    stage.tell(m.ShadowLost(7))
    (host,) = only(m.HostWorker, stage.ready(made.process))
    assert host.redo == ()
    assert started(stage.die(made.process)).shadow is None


def test_a_shadow_that_does_not_answer_is_given_up_soon() -> None:
    stage = shadowed()
    made = started(stage.die(1, task=2))
    stage.tell(m.ClockAdvanced(), after=FORK_TIMEOUT)
    said = stage.tell(m.StacksCaptured(made.process, ""))
    assert m.KillProcess(made.process) in said
    said = stage.die(made.process)
    assert m.DropShadow(7) in said
    assert started(said).shadow is None


def test_successors_that_die_while_they_redo_are_not_tried_for_ever_and_lay_no_blame_on_the_worker() -> None:
    stage = shadowed(max_restarts=100, bad_sample_attempts=1)
    stage.load(2)
    start = started(stage.die(1))
    for shadow in (7, 7, None):
        assert start.shadow == shadow
        stage.tell(m.ProcessReady(start.process))
        start = started(stage.die(start.process, setup=0))
    assert stage.sup.workers[0].setup_failures == 1  # of the last one, which was no successor
    assert only(m.GiveUp, stage.commands) == []


def test_a_sample_that_kills_is_found_in_successors_of_one_shadow() -> None:
    stage = shadowed(bad_sample_attempts=2)
    number = 1
    for _ in range(3):
        said = stage.die(number, task=2, sample=1)
        start = started(said)
        assert start.shadow == 7
        number = start.process
        stage.ready(number)
    stage.ask()
    stage.load(1)
    stage.ask()
    (bad,) = only(m.DeliverBadSample, stage.ask())
    assert bad.indices == (9,)


def test_a_copy_of_a_worker_that_is_not_ready_is_of_no_use() -> None:
    stage = Stage()
    stage.begin(ready=False)
    stage.tell(m.ProcessReady(1))
    assert stage.tell(m.ShadowTaken(1, 7)) == [m.DropShadow(7)]
    stage.tell(m.WorkerReady(1, 0, 0.0))
    assert stage.tell(m.ShadowTaken(1, 8)) == []


def test_a_new_epoch_is_begun_again_in_the_successor() -> None:
    stage = shadowed(prefetch_factor=1)
    stage.batches = 1
    stage.begin()
    said = stage.answer(1)  # the epoch is begun
    stage.load(2 if 2 in stage.tasks else max(stage.tasks))
    start = started(stage.die(1))
    (host,) = only(m.HostWorker, stage.ready(start.process))
    assert host.redo is not None
    assert [again.epoch for again in host.redo].count(1) == 1, said


def test_a_worker_that_moves_leaves_its_shadow() -> None:
    stage = shadowed(fallback="inline", max_restarts=0)
    said = stage.die(1, task=2, memory_short=True)  # one process is left, and takes the worker
    assert only(m.StartProcess, said) == []
    assert m.DropShadow(7) in said
    (host,) = only(m.HostWorker, said)
    assert (host.worker, host.process, host.as_new) == (0, 2, AsNew(0, 0, None)), "in a new copy"


def test_two_lost_processes_are_each_followed_by_their_own_shadow() -> None:
    stage = shadowed()
    stage.tell(m.ShadowTaken(2, 8))
    first, second = started(stage.die(2)), started(stage.die(1))
    assert (first.shadow, second.shadow) == (8, 7)
    homes = {host.worker: host for start in (second, first) for host in only(m.HostWorker, stage.ready(start.process))}
    assert (homes[1].process, homes[0].process) == (first.process, second.process)
    assert homes[0].redo == homes[1].redo == ()


def test_a_shadow_goes_before_what_the_dataset_says_of_its_state() -> None:
    stage = Stage(stateful=True)
    stage.begin()
    stage.load(0)
    stage.tell(m.WorkerMarked(1, 0, "state"), m.ShadowTaken(1, 7))
    stage.load(2)
    start = started(stage.die(1))
    (host,) = only(m.HostWorker, stage.ready(start.process))
    assert (host.mark, host.replay, host.redo) == (None, (), (Redo(None, [8, 9, 10, 11], ()),))


def test_the_end_ends_the_shadows() -> None:
    stage = shadowed()
    assert m.DropShadow(7) in stage.tell(m.CloseRequested())
    assert stage.tell(m.ShadowTaken(2, 8)) == [m.DropShadow(8)]


def test_the_rung_does_not_rise_while_a_shadow_holds_what_a_move_would_lose() -> None:
    stage = shadowed(recover_after=1)
    stage.tell(m.ShadowTaken(2, 8))
    stage.die(1, task=2, memory_short=True)
    assert stage.rung == 1
    stage.ask()
    stage.load(1)
    stage.load(3)
    assert stage.rung == 1
    stage.tell(m.ShadowLost(8))
    while stage.rung == 1 and stage.sup.fleet.processes[2].work:
        stage.answer(2)
        stage.ask()
    assert stage.rung == 2


def test_all_workers_of_a_process_go_on_in_what_its_shadow_made() -> None:
    stage = Stage(num_workers=3, max_processes=2)
    stage.begin()
    crowded = next(p.id for p in stage.sup.fleet.processes.values() if len(p.workers) == 2)
    both = set(stage.sup.fleet.processes[crowded].workers)
    while any(work.kind == "setup" for work in stage.sup.fleet.processes[crowded].work):
        stage.answer(crowded)
    stage.tell(m.ShadowTaken(crowded, 7))
    start = started(stage.die(crowded))
    hosts = only(m.HostWorker, stage.ready(start.process))
    assert {host.worker for host in hosts if host.redo is not None} == both
    assert {host.process for host in hosts} == {start.process}


def test_a_worker_that_was_probed_goes_on_in_another_process() -> None:
    stage = shadowed(bad_sample_attempts=1)
    number = 1
    for _ in range(2):
        number = started(stage.die(number, task=2)).process
        said = stage.ready(number)
    while probes := only(m.SendProbe, said):
        said = stage.tell(m.ProbeFinished(number, probes[0].task, stage.now))
    assert m.KillProcess(number) in said
    assert stage.tell(m.ShadowTaken(number, 8)) == [m.DropShadow(8)]
    said = stage.die(number)
    assert only(m.ReportFault, said) == []
    assert started(said).shadow == 7


# ---------------------------------------------------------------- changes that are kept in one place


def changed(**settings: object) -> Stage:
    """Two workers in two processes; the dataset of worker 0 is seen to have changed itself."""
    stage = Stage(**settings)
    stage.begin()
    sent = stage.tasks[0]
    stage.tell(m.WorkerChanged(1, 0), m.TaskLoaded(sent.process, 0, "batch 0", 64, None, 0.0, 1.0))
    return stage


def test_too_many_faults_lower_nothing_that_keeps_a_change() -> None:
    stage = changed(max_restarts=0)
    said = stage.die(2, task=1)
    assert only(m.ReportStay, said) == [m.ReportStay(2)]
    assert only(m.ReportRung, said) == []
    assert len(only(m.StartProcess, said)) == 1
    assert stage.rung == 2


def test_faults_without_a_batch_in_between_lower_it_all_the_same() -> None:
    stage = changed(max_restarts=0, bad_sample_attempts=9)
    said = stage.die(2)
    for _ in range(2):
        said = stage.die(only(m.StartProcess, said)[0].process)
        assert stage.rung == 2
    stage.die(only(m.StartProcess, said)[0].process)
    assert stage.rung == 1


def test_short_memory_lowers_it_and_what_is_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_copy, "MOST", 0)
    stage = changed()
    said = stage.die(1, memory_short=True)
    assert stage.rung == 1
    (lost,) = [c for c in only(m.ReportReplay, said) if c.outcome == "lost"]
    assert (lost.worker, lost.source, lost.action) == (0, "dataset", "goes on")


def test_a_shadow_that_short_memory_leaves_unused_is_not_promised() -> None:
    stage = shadowed()
    (fault,) = only(m.ReportFault, stage.die(1, memory_short=True))
    assert fault.action != "restored"


@pytest.mark.parametrize(("limit", "value"), [("MOST", 0), ("MOST_SAMPLES", 3), ("LONGEST", 0.9)])
def test_a_change_is_lost_and_told_once(monkeypatch: pytest.MonkeyPatch, limit: str, value: float) -> None:
    monkeypatch.setattr(new_copy, limit, value)
    stage = changed()
    said = stage.die(1)
    said += stage.bring_up(said)
    assert [c.outcome for c in only(m.ReportReplay, said)] == ["lost"]
    process = only(m.HostWorker, said)[0].process
    assert only(m.ReportReplay, stage.bring_up(stage.die(process))) == []


def test_a_change_is_made_again_in_a_new_copy() -> None:
    stage = changed()
    stage.load(2, snapshot="after 2")
    said = stage.die(1)
    said += stage.bring_up(said)
    assert only(m.ReportReplay, said) == []
    (host,) = only(m.HostWorker, said)
    assert [done.indices for done in host.redo or ()] == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert (host.as_new, host.snapshot, host.position) == (AsNew(0, 0, None), "after 2", 2)


def test_what_was_done_before_a_look_that_saw_no_change_is_not_done_again() -> None:
    stage = Stage()
    stage.begin()
    stage.load(0, snapshot="after 0")
    stage.ask()
    stage.tell(m.WorkerUnchanged(1, 0))
    stage.load(2, snapshot="after 2")
    stage.ask()
    stage.load(4, snapshot="after 4")
    said = stage.die(1)
    (host,) = only(m.HostWorker, said + stage.bring_up(said))
    assert [done.indices for done in host.redo or ()] == [[16, 17, 18, 19]]
    assert (host.as_new, host.snapshot) == (AsNew(0, 2, "after 2"), "after 4")


def test_where_nothing_was_done_since_the_last_look_nothing_is_done_again() -> None:
    stage = Stage()
    stage.begin()
    stage.tell(m.WorkerUnchanged(1, 0))
    stage.load(0, snapshot="after 0")
    said = stage.die(1)
    (host,) = only(m.HostWorker, said + stage.bring_up(said))
    assert (host.redo, host.as_new, host.snapshot) == (None, None, "after 0")


def test_a_look_of_a_process_that_the_worker_has_left_does_not_count() -> None:
    stage = Stage()
    stage.begin()
    stage.tell(m.WorkerUnchanged(2, 0))
    stage.load(0)
    said = stage.die(1)
    assert [len(host.redo or ()) for host in only(m.HostWorker, said + stage.bring_up(said))] == [1]


def test_a_look_whose_task_was_never_answered_does_not_count() -> None:
    stage = Stage()
    stage.begin()
    stage.load(0)
    stage.tell(m.WorkerUnchanged(1, 0))
    said = stage.die(1, task=2)
    said += stage.bring_up(said)
    assert [len(host.redo or ()) for host in only(m.HostWorker, said)] == [1]
    stage.load(2)
    said = stage.die(only(m.HostWorker, said)[0].process)
    assert [len(host.redo or ()) for host in only(m.HostWorker, said + stage.bring_up(said))] == [2]


def test_without_fallback_a_change_puts_nothing_off() -> None:
    stage = changed(max_restarts=0, fallback="off")
    assert [c.cause for c in only(m.GiveUp, stage.die(2, task=1))] == ["restarts"]


def test_a_dataset_that_tells_its_state_has_no_change_to_lose() -> None:
    stage = changed(stateful=True, max_restarts=0)
    stage.die(2, task=1)
    assert stage.rung == 1


def test_no_rung_is_regained_while_the_trainer_keeps_a_change() -> None:
    stage = Stage(num_workers=1, max_restarts=0, recover_after=1, prefetch_factor=1)
    stage.begin()
    stage.die(1)
    assert stage.rung == 0
    stage.ask()
    stage.tell(m.WorkerReady(m.INLINE, 0, stage.now), m.WorkerChanged(m.INLINE, 0))
    stage.tell(m.TaskLoaded(m.INLINE, 0, "batch", 0, None, 0.0, 0.0))
    for task in range(1, 4):
        stage.ask()
        stage.tell(m.TaskLoaded(m.INLINE, task, "batch", 0, None, 0.0, 0.0))
    assert stage.rung == 0


def test_a_change_that_a_process_tells_of_a_worker_that_has_left_it_is_stale() -> None:
    stage = Stage()
    stage.begin()
    stage.tell(m.WorkerChanged(2, 0))
    assert [c.outcome for c in only(m.ReportReplay, stage.bring_up(stage.die(1)))] == []
