"""A pool: who gets a place where, and what follows when another loader's samples hurt a process."""

from __future__ import annotations

from typing import Any

from safeloader.core import messages as m
from safeloader.core.placement import Changes, Placement, Reserve, choose
from safeloader.core.policy import RestartWindow
from tests.core.stage import Stage, only


def shared(**settings: object) -> Stage:
    """Two workers on two processes of a pool, with two batches each in flight."""
    stage = Stage(**{"shared": True, "batch_timeout": 10.0, "max_restarts": 0, **settings})
    stage.begin()
    return stage


# ---------------------------------------------------------------- another loader's doing


def test_a_loss_by_anothers_doing_is_no_fault_and_costs_no_batch() -> None:
    stage = shared()
    stage.tell(m.ProcessLostElsewhere(1))
    said = stage.die(1, task=0)
    assert only((m.ReportFault, m.ReportRung, m.GiveUp), said) == []
    (start,) = only(m.StartProcess, said)
    sent = only(m.SendTask, stage.ready(start.process))
    assert [command.task for command in sent] == [0, 2]
    assert stage.sup.tasks[0].attempts == 0


def test_the_generators_go_to_the_next_process() -> None:
    stage = shared()
    stage.load(0, snapshot="after task 0")
    stage.tell(m.ProcessLostElsewhere(1))
    (start,) = only(m.StartProcess, stage.die(1))
    (host,) = only(m.HostWorker, stage.ready(start.process))
    assert host.snapshot == "after task 0"


def test_a_forfeited_process_gets_no_more_work_and_is_abandoned_if_it_does_not_end() -> None:
    stage = shared()
    stage.tell(m.ProcessLostElsewhere(1))
    stage.load(1)
    stage.ask()
    assert not [c for c in stage.commands[-20:] if isinstance(c, m.SendTask) and c.process == 1 and c.task > 2]
    said = stage.tell(m.ClockAdvanced(), after=stage.sup.settings.kill_timeout)
    assert m.AbandonProcess(1) in said
    assert only(m.ReportFault, said) == []
    assert only(m.StartProcess, said)


def test_our_own_verdict_stands() -> None:
    stage = shared(max_restarts=4)
    stage.now = 20.0
    stage.look(1, task=0, sample=3)
    stage.tell(m.StacksCaptured(1, "stack"))
    stage.tell(m.ProcessLostElsewhere(1))
    (fault,) = only(m.ReportFault, stage.die(1))
    assert (fault.cause, fault.task, fault.sample) == ("hung", 0, 3)


# ---------------------------------------------------------------- who waits for whom


def test_while_it_works_for_another_loader_nothing_is_hung() -> None:
    stage = shared()
    for _ in range(20):
        stage.now += 10.0
        said = stage.tell(m.ClockAdvanced())
        for inspect in only(m.InspectProcess, said):
            said += stage.tell(m.ProcessInspected(inspect.process, None, None, None, 0.0, stage.now - 9.0, "S", True))
        assert only((m.CaptureStacks, m.KillProcess), said) == []


def test_the_time_counts_from_when_it_came_back() -> None:
    stage = shared()
    stage.now = 100.0
    said = stage.tell(m.ClockAdvanced())
    for inspect in only(m.InspectProcess, said):
        stage.tell(m.ProcessInspected(inspect.process, 0, None, None, 95.0, 95.0, "S"))
    assert stage.sup.next_deadline() == 105.0


def test_a_shared_process_that_still_starts_is_left_and_not_killed() -> None:
    stage = Stage(shared=True)
    stage.begin(ready=False)
    said = stage.tell(m.CloseRequested())
    assert [c.process for c in only(m.StopProcess, said)] == [1, 2]
    assert only(m.KillProcess, said) == []


def test_a_start_waits_for_the_work_of_another_loader_but_not_for_ever() -> None:
    stage = Stage(shared=True, num_workers=1, startup_timeout=30.0)
    stage.begin(ready=False)
    for _ in range(2):
        said = stage.tell(m.ClockAdvanced(), after=30.0)
        said += stage.tell(m.ProcessInspected(1, None, None, None, 0.0, 0.0, "R", True))
        assert only(m.CaptureStacks, said) == []
    stage.tell(m.ClockAdvanced(), after=30.0)
    assert only(m.CaptureStacks, stage.tell(m.ProcessInspected(1, None, None, None, 0.0, 0.0, "R")))


# ---------------------------------------------------------------- places


def test_the_first_seats_are_new_processes_up_to_the_limit() -> None:
    places: list[Placement] = []
    for number in (1, 2, 3):
        assert choose(places, loader=7, limit=3) is None
        places.append(Placement(number, (7,)))
    assert choose(places, loader=7, limit=3) == 1


def test_a_second_loader_sits_once_in_each_living_process() -> None:
    places = [Placement(1, (7,)), Placement(2, (7,))]
    assert choose(places, loader=8, limit=2) == 1
    assert choose([Placement(1, (7, 8)), Placement(2, (7,))], loader=8, limit=2) == 2


def test_an_empty_process_goes_first_and_a_burdened_one_last() -> None:
    assert choose([Placement(1, (7,)), Placement(2, ())], loader=8, limit=4) == 2
    assert choose([Placement(1, (), burdened=True), Placement(2, (7,))], loader=8, limit=2) == 2
    assert choose([Placement(1, (), burdened=True)], loader=8, limit=2) is None


def test_few_workers_keep_away_from_crowded_processes() -> None:
    assert choose([Placement(1, (7, 9)), Placement(2, (7,)), Placement(3, (7, 9))], loader=8, limit=3) == 2


# ---------------------------------------------------------------- standbys


def reserve(wanted: int = 1, max_restarts: int = 4) -> Reserve:
    return Reserve(wanted, 30.0, RestartWindow(max_restarts, 600.0))


def standby(number: int, **facts: Any) -> Placement:
    return Placement(number, (), standby=True, **facts)


BOTH = [Placement(1, (7,)), Placement(2, (7,))]


def test_a_standby_is_given_out_where_a_process_would_be_started() -> None:
    one, two = BOTH
    assert choose([one, two, standby(3)], loader=8, limit=2) == 1
    assert choose([one, standby(3)], loader=7, limit=2) == 3
    assert choose([one, standby(3, ready=False)], loader=7, limit=2) == 3  # nearer than a new one
    assert choose([one, standby(3, ready=False), standby(4)], loader=7, limit=2) == 4
    assert choose([one, standby(3, stopped=True)], loader=7, limit=2) is None


def test_a_standby_is_started_once_somebody_sits_there_and_nobody_starts() -> None:
    assert reserve().changes(BOTH, 0.0, calm=True) == Changes((), 1)
    assert reserve(2).changes([*BOTH, standby(3)], 0.0, calm=True) == Changes((), 1)
    assert reserve().changes([*BOTH, standby(3)], 0.0, calm=True) == Changes((), 0)
    assert reserve().changes([*BOTH, Placement(3, (7,), ready=False)], 0.0, calm=True) == Changes((), 0)
    assert reserve().changes([Placement(1, ()), Placement(2, ())], 0.0, calm=True) == Changes((), 0)


def test_below_the_top_of_a_ladder_there_are_no_standbys() -> None:
    assert reserve().changes([*BOTH, standby(3)], 0.0, calm=False) == Changes((3,), 0)


def test_a_standby_that_was_stopped_or_does_not_start_is_replaced() -> None:
    kept = reserve()
    assert kept.changes([*BOTH, standby(3, stopped=True)], 0.0, calm=True) == Changes((3,), 1)
    starts = [*BOTH, standby(4, ready=False, started_at=5.0)]
    assert kept.next_deadline(starts) == 35.0
    assert kept.changes(starts, 34.0, calm=True) == Changes((), 0)
    assert kept.changes(starts, 35.0, calm=True) == Changes((4,), 1)


def test_standbys_that_are_lost_again_and_again_or_for_memory_are_not_worth_it() -> None:
    often = reserve(max_restarts=2)
    for _ in range(2):
        often.lost(0.0)
        assert often.changes(BOTH, 0.0, calm=True).start == 1
    often.lost(0.0)
    assert often.changes(BOTH, 0.0, calm=True).start == 0
    short = reserve()
    short.lost(0.0, memory_short=True)
    assert short.changes(BOTH, 0.0, calm=True).start == 0


def test_a_loss_that_a_ready_process_makes_good_is_told_as_a_hand_over() -> None:
    stage = shared(max_restarts=4)
    (fault,) = only(m.ReportFault, stage.tell(m.ProcessExited(1, "SIGKILL", 0, None, 3, None, False, relieved=True)))
    assert fault.action == "handed over"
