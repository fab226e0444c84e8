"""What the supervisor does when processes die, hang, or cannot be started."""

from __future__ import annotations

import pytest

from safeloader.core import messages as m
from tests.core.stage import Stage, only

# ---------------------------------------------------------------- deaths


def test_the_death_of_one_process_leaves_the_others_untouched() -> None:
    stage = Stage(num_workers=3)
    stage.begin()
    said = stage.die(2, task=1)
    said += stage.bring_up(said)
    assert {getattr(c, "process", 2) for c in said} == {2, 4}
    assert stage.homes == {0: 1, 1: 4, 2: 3}


def test_lost_tasks_go_first_and_in_the_old_order() -> None:
    stage = Stage(num_workers=2, prefetch_factor=3)
    stage.begin()
    stage.load(0)
    stage.get()
    said = stage.bring_up(stage.die(1, task=2))
    assert [c.task for c in only(m.SendTask, said)] == [2, 4, 6]


def test_batches_that_a_dead_process_finished_are_delivered() -> None:
    stage = Stage(num_workers=1, prefetch_factor=2)
    stage.begin()
    stage.load(0)
    stage.die(1, task=1)
    assert stage.get().task == 0  # type: ignore[union-attr]


def test_an_exit_with_code_zero_is_a_death() -> None:
    stage = Stage(num_workers=1)
    stage.begin()
    said = stage.die(1, task=0, detail="exit code 0")
    assert [(c.cause, c.detail) for c in only(m.ReportFault, said)] == [("died", "exit code 0")]
    assert only(m.StartProcess, said) == [m.StartProcess(2)]


def test_the_death_of_an_idle_process_is_held_against_no_task() -> None:
    stage = Stage(num_workers=1)
    stage.begin()
    said = stage.die(1)
    assert only(m.ReportFault, said)[0].task is None
    assert stage.sup.tasks[0].attempts == 0


def test_a_worker_takes_its_generators_along() -> None:
    stage = Stage(num_workers=1, prefetch_factor=2)
    stage.begin()
    stage.load(0, snapshot="state after 0")
    stage.load(1)  # moved nothing
    said = stage.bring_up(stage.die(1))
    host = only(m.HostWorker, said)[0]
    assert (host.process, host.position, host.snapshot) == (2, 2, "state after 0")


def test_messages_of_a_process_that_is_gone_are_dropped() -> None:
    stage = Stage(num_workers=1)
    stage.begin()
    stage.die(1, task=0)
    assert stage.tell(m.TaskLoaded(1, 0, "late", 64, None, 0.0, 0.0)) == []
    assert stage.die(1, task=0) == stage.tell(m.StacksCaptured(1, "late")) == []
    assert not only(m.Deliver, stage.ask())


# ---------------------------------------------------------------- neighbours


def test_a_process_that_is_ready_takes_a_worker_in_until_the_new_one_is_ready() -> None:
    stage = Stage(num_workers=2, neighbours=True)
    stage.begin()
    said = stage.die(1, task=0)
    assert [c.action for c in only(m.ReportFault, said)] == ["handed over"]
    assert [(c.process, c.worker) for c in only(m.HostWorker, said)] == [(2, 0)]
    assert only(m.StartProcess, said) == [m.StartProcess(3)]
    stage.ask()
    stage.tell(m.ProcessReady(3))
    while 3 not in stage.homes.values():
        stage.answer(2)
    assert sorted(stage.homes.values()) == [2, 3]


@pytest.mark.parametrize("detail", ["SIGSEGV", "exit code 1"])
def test_what_may_have_killed_its_process_is_not_loaded_beside_another_worker(detail: str) -> None:
    stage = Stage(num_workers=2, neighbours=True)
    stage.begin()
    said = stage.die(1, task=0, detail=detail)
    assert only(m.HostWorker, said) == []
    assert stage.sup.workers[0].host == 3


def test_what_was_killed_twice_is_not_loaded_beside_another_worker() -> None:
    stage = Stage(num_workers=3, neighbours=True)
    stage.begin()
    stage.die(1, task=0)
    assert stage.sup.workers[0].host == 2
    work = stage.sup.fleet.processes[2].work
    while (work[0].kind, work[0].about) != ("task", 0):
        stage.answer(2)
    stage.die(2, task=0)
    assert stage.sup.workers[0].host not in (1, 2, 3)


def test_a_dataset_that_changes_itself_is_taken_in_by_nobody() -> None:
    stage = Stage(num_workers=2, neighbours=True)
    stage.begin()
    stage.load(0)
    stage.tell(m.WorkerChanged(1, 0))
    stage.die(1, task=2)
    assert stage.sup.workers[0].host == 3


# ---------------------------------------------------------------- the ladder


def play(stage: Stage, batches: int) -> list[int]:
    """Deliver that many batches. Returns the rung after each."""
    rungs = []
    for _ in range(batches):
        stage.obey(stage.ask())
        while stage.sup.schedule.requested:
            host = stage.sup.workers[stage.sup.schedule.queue[0].worker].host
            assert host is not None
            stage.obey(stage.answer(host))
        rungs.append(stage.rung)
    return rungs


def test_too_many_faults_lead_down_the_ladder_and_good_batches_up_again() -> None:
    stage = Stage(num_workers=4, prefetch_factor=1, max_restarts=0, recover_after=3)
    stage.begin()
    rungs = [stage.rung]
    for _ in range(3):
        stage.obey(stage.die(stage.sup.fleet.staff()[0].id))
        rungs += play(stage, 2)  # what is in flight is finished, then its worker moves
    rungs += play(stage, 8)
    assert rungs == [4, 2, 2, 1, 1, 0, 0, 1, 1, 1, 2, 2, 2, 4, 4]
    assert len(only(m.ReportRung, stage.commands)) == 6


def test_memory_shortage_leads_one_rung_down_at_once() -> None:
    stage = Stage(num_workers=4, max_restarts=100)
    stage.begin()
    said = stage.die(1, memory_short=True)
    assert only(m.ReportFault, said)[0].cause == "oom"
    assert only(m.ReportRung, said) == [m.ReportRung(4, 2, "memory is short")]


def test_what_we_killed_ourselves_is_no_memory_shortage() -> None:
    stage = Stage(num_workers=4, max_restarts=100, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    stage.look(1, task=0)
    stage.tell(m.StacksCaptured(1, "stack"))
    assert not only(m.ReportRung, stage.die(1, task=0, memory_short=True))


def test_processes_that_cannot_start_lead_down_to_the_trainer() -> None:
    stage = Stage(num_workers=2, max_restarts=1)
    said = stage.begin(ready=False)
    for _ in range(10):
        starts = only(m.StartProcess, said)
        said = [c for start in starts for c in stage.die(start.process, detail="exit code 1")]
    assert stage.rung == 0
    assert {c.cause for c in only(m.ReportFault, stage.commands)} == {"failed_start"}
    for worker in (0, 1):
        stage.tell(m.WorkerReady(m.INLINE, worker, 0.0))
    assert [c.task for c in only(m.LoadInline, stage.ask())] == [0]


def test_starts_that_time_out_rarely_are_too_many_in_the_end() -> None:
    stage = Stage(num_workers=1, max_restarts=2, startup_timeout=400.0, restart_period=600.0)
    stage.begin(ready=False)
    for _ in range(3):
        process = stage.sup.fleet.staff()[0].id
        stage.now = until_given_up(stage)
        assert stage.tell(m.ClockAdvanced()) == [m.CaptureStacks(process)]
        stage.tell(m.StacksCaptured(process, "stack"))
        stage.die(process)
    assert stage.rung == 0


def until_given_up(stage: Stage) -> float:
    """When a start is over that was told to be slow before."""
    stage.now = stage.sup.next_deadline()
    process = stage.sup.fleet.staff()[0].id
    assert only(m.ReportSlowStart, stage.look(process))
    return stage.sup.next_deadline()


def test_a_second_start_has_twice_the_time() -> None:
    stage = Stage(num_workers=1, startup_timeout=300.0)
    stage.begin(ready=False)
    stage.tell(m.ClockAdvanced(), after=300.0)
    stage.die(1)
    assert until_given_up(stage) == 900.0


def test_a_start_that_stands_is_given_up_by_the_time_that_others_took() -> None:
    """Two seconds teach that a minute is far too long, to a process that was started before, too."""
    stage = Stage(num_workers=2, startup_timeout=300.0)
    stage.begin(ready=False)
    stage.now = 2.5
    stage.tell(m.ProcessReady(1, 2.0))
    assert stage.sup.next_deadline() == 10.0
    stage.now = 10.0
    assert stage.look(2) == [m.InspectProcess(2), m.ReportSlowStart(2, 10.0)]
    assert stage.sup.next_deadline() == 60.0
    stage.now = 59.0
    assert stage.tell(m.ClockAdvanced()) == []
    stage.now = 60.0
    assert stage.tell(m.ClockAdvanced()) == [m.CaptureStacks(2)]
    stage.tell(m.StacksCaptured(2, "stack"))
    said = stage.die(2)
    assert [(c.cause, c.stalled) for c in only(m.ReportFault, said)] == [("failed_start", 60.0)]
    assert only(m.StartProcess, said) == [m.StartProcess(3, False)]


def test_a_start_that_somebody_has_stopped_is_given_up_as_soon_as_it_is_slow() -> None:
    stage = Stage(num_workers=2, startup_timeout=300.0)
    stage.begin(ready=False)
    stage.now = 2.5
    stage.tell(m.ProcessReady(1, 2.0))
    stage.now = 10.0
    assert stage.look(2, state="T") == [m.InspectProcess(2), m.CaptureStacks(2)]
    said = stage.die(2)
    assert [(c.cause, c.stalled) for c in only(m.ReportFault, said)] == [("failed_start", 10.0)]
    assert stage.sup.fleet.processes[3].deadline == 20.0, "it says nothing of how long a start takes"


def test_a_machine_that_is_ten_times_as_busy_raises_no_alarm() -> None:
    stage = Stage(num_workers=1, startup_timeout=300.0, slowest_start=9.0)
    stage.begin(ready=False)
    stage.now = 90.0
    stage.look(1)
    assert not only(m.CaptureStacks, stage.commands)
    assert stage.sup.next_deadline() == 270.0
    stage.ready(1)
    assert stage.sup.watch.deadlines.slowest_start == 90.0


def test_a_false_alarm_about_a_start_is_a_lesson() -> None:
    stage = Stage(num_workers=1, startup_timeout=300.0, slowest_start=1.0)
    stage.begin(ready=False)
    assert m.CaptureStacks(1) in stage.tell(m.ClockAdvanced(), after=61.0)
    stage.tell(m.ProcessReady(1, 61.0))
    assert stage.sup.watch.deadlines.start(0) == 300.0


def test_the_time_to_start_is_doubled_twice_at_most() -> None:
    stage = Stage(num_workers=1, startup_timeout=300.0, max_restarts=100)
    stage.begin(ready=False)
    given = []
    for process in range(1, 6):
        begun = stage.now
        stage.now = until_given_up(stage)
        given.append(stage.now - begun)
        stage.tell(m.ClockAdvanced())
        stage.die(process)
    assert given == [300.0, 600.0, 1200.0, 1200.0, 1200.0]


def test_a_process_that_becomes_ready_while_its_stacks_are_read_is_spared() -> None:
    stage = Stage(num_workers=1, startup_timeout=300.0)
    stage.begin(ready=False)
    assert stage.tell(m.ClockAdvanced(), after=300.0) == [m.CaptureStacks(1)]
    assert only(m.HostWorker, stage.ready(1))
    assert stage.tell(m.StacksCaptured(1, "late")) == []


@pytest.mark.parametrize(("fallback", "rung"), [("off", 2), ("process", 1)])
def test_without_a_rung_left_too_many_faults_end_the_loader(fallback: str, rung: int) -> None:
    stage = Stage(num_workers=2, max_restarts=0, fallback=fallback)
    stage.begin()
    while not stage.sup.closed:
        stage.bring_up(stage.die(stage.sup.fleet.staff()[0].id))
    assert stage.rung == rung
    given_up = only(m.GiveUp, stage.commands)
    assert [c.cause for c in given_up] == ["restarts"]
    assert stage.ask() == given_up, "who asks again must not wait"


def test_a_process_that_refuses_the_dataset_ends_the_loader() -> None:
    stage = Stage()
    stage.begin(ready=False)
    said = stage.tell(m.StartRefused(1, "no module named cats"))
    assert only(m.GiveUp, said) == [m.GiveUp("refused", "no module named cats", "")]


def test_a_dataset_that_could_be_rebuilt_before_is_tried_again_and_then_given_up() -> None:
    stage = Stage(num_workers=1, bad_sample_attempts=1, max_restarts=100)
    stage.begin()
    process = only(m.StartProcess, stage.die(1))[0].process
    stage.tell(m.ProcessReady(process))
    assert stage.tell(m.StartRefused(process, "no answer")) == []
    process = only(m.StartProcess, stage.die(process, setup=0, detail="exit code 1"))[0].process
    stage.tell(m.ProcessReady(process))
    said = stage.tell(m.StartRefused(process, "still no answer"))
    assert only(m.GiveUp, said) == [m.GiveUp("refused", "still no answer", "")]


def test_a_worker_whose_setting_up_kills_ends_the_loader() -> None:
    stage = Stage(num_workers=1, bad_sample_attempts=1, max_restarts=100)
    said = stage.begin(ready=False)
    for _ in range(2):
        process = only(m.StartProcess, said)[0].process
        stage.tell(m.ProcessReady(process))
        said = stage.die(process, setup=0, detail="SIGSEGV")
    assert only(m.GiveUp, said) == [m.GiveUp("setup", None, "died")]


# ---------------------------------------------------------------- silence


def test_a_hang_during_a_long_absence_is_seen_at_once() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 500.0
    stage.tell(m.TaskLoaded(1, 0, "batch", 64, None, 1.0, 19.0))
    said = stage.look(1, task=1, taken_at=20.0, progressed_at=20.0)
    assert only(m.CaptureStacks, said) == [m.CaptureStacks(1)]


def test_a_process_that_waited_to_be_heard_while_the_trainer_was_busy_is_excused_once() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 500.0
    said = stage.look(1, progressed_at=20.0)
    assert not only(m.CaptureStacks, said)
    assert stage.sup.next_deadline() == 510.0
    stage.now = 510.0
    assert only(m.CaptureStacks, stage.look(1, progressed_at=20.0)), "it never took the task up"


def test_a_hung_process_is_asked_for_its_stacks_and_killed_and_the_report_has_them() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    stage.look(1, task=0, sample=3)
    assert stage.tell(m.StacksCaptured(1, "in __getitem__")) == [m.KillProcess(1)]
    fault = only(m.ReportFault, stage.die(1, task=0, sample=3))[0]
    assert (fault.cause, fault.task, fault.sample, fault.stack) == ("hung", 0, 3, "in __getitem__")
    assert fault.stalled == 10.0


def test_a_process_that_does_not_tell_its_stacks_is_killed_all_the_same() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0, capture_timeout=1.0)
    stage.begin()
    stage.now = 10.0
    stage.look(1, task=0)
    assert stage.tell(m.ClockAdvanced(), after=1.0) == [m.KillProcess(1)]


def test_a_stopped_process_is_killed_without_asking() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    assert m.KillProcess(1) in stage.look(1, task=0, state="T")
    assert only(m.ReportFault, stage.die(1))[0].cause == "stopped"


def test_a_batch_whose_samples_still_finish_is_reported_once_and_not_killed() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    said = []
    for second in (10, 19, 28, 37):
        stage.now = float(second)
        said += stage.look(1, task=0, taken_at=0.0, progressed_at=second - 1.0, sample=2)
    assert [(c.task, c.seconds, c.sample) for c in only(m.ReportSlow, said)] == [(0, 28.0, 2)]
    assert not only((m.CaptureStacks, m.KillProcess), said)


def test_a_false_alarm_costs_no_data_and_the_process_goes_on() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, batch_timeout=10.0)
    stage.begin()
    stage.ask()
    stage.now = 10.0
    stage.look(1, task=0)
    said = stage.load(0)
    assert [c.task for c in only(m.Deliver, said)] == [0]
    assert stage.tasks[1].process == 1
    assert stage.tell(m.StacksCaptured(1, "late")) == []


def test_what_was_planned_during_a_false_alarm_is_sent_after_it() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    stage.look(1, task=0)
    stage.begin()
    assert 1 not in stage.tasks
    assert [type(c) for c in stage.load(0)] == [m.ResumeWorker, m.SendTask]


def test_a_task_that_was_finished_in_the_last_moment_is_not_held_guilty() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    stage.look(1, task=0, state="T")
    stage.load(0)
    stage.die(1, task=1)
    assert stage.get().task == 0  # type: ignore[union-attr]
    assert stage.sup.tasks[1].attempts == 0


def _answered_and_took_the_next(state: str) -> tuple[Stage, list[m.Command]]:
    """Between a look at its channel and one at its page: the answer comes only now."""
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    said = stage.look(1, task=1, taken_at=9.9, progressed_at=9.9, sample=2, state=state)
    stage.load(0)
    return stage, said


def test_what_a_stopped_process_is_at_is_to_blame_though_the_answers_before_that_are_still_unheard() -> None:
    stage, _ = _answered_and_took_the_next("T")
    fault = only(m.ReportFault, stage.die(1, task=1, sample=2))[0]
    assert (fault.cause, fault.task, fault.sample) == ("stopped", 1, 2)
    assert stage.sup.tasks[1].attempts == 1


def test_a_process_that_took_the_next_task_is_not_taken_for_hung_though_its_answer_is_still_unheard() -> None:
    _, said = _answered_and_took_the_next("S")
    assert not only((m.CaptureStacks, m.KillProcess), said)


def test_a_second_attempt_has_twice_the_time() -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    stage.look(1, task=0)
    stage.tell(m.StacksCaptured(1, "stack"))
    stage.bring_up(stage.die(1, task=0))
    assert stage.sup.next_deadline() == 30.0


@pytest.mark.parametrize("how", ["killed", "crashed", "stopped"])
def test_only_a_hang_is_a_reason_for_more_time(how: str) -> None:
    stage = Stage(num_workers=1, batch_timeout=10.0, bad_sample_attempts=9, max_restarts=100)
    stage.begin()
    for process in (1, 2, 3):
        if how == "stopped":
            stage.tell(m.ClockAdvanced(), after=10.0)
            stage.tell(m.ProcessInspected(process, 0, None, 1, stage.now, stage.now, "T"))
        said = stage.die(process, task=0, sample=1, detail="SIGSEGV" if how == "crashed" else "SIGKILL")
        stage.bring_up(said)
    assert stage.sup.tasks[0].attempts == 3
    assert stage.sup.next_deadline() == stage.now + 10.0


def test_a_set_up_that_was_killed_has_no_more_time_than_the_first() -> None:
    stage = Stage(num_workers=1, startup_timeout=300.0, bad_sample_attempts=9, max_restarts=100)
    said = stage.begin(ready=False)
    for _ in range(3):
        process = only(m.StartProcess, said)[0].process
        stage.tell(m.ProcessReady(process))
        assert stage.sup.next_deadline() == stage.now + 300.0
        said = stage.die(process, setup=0, detail="SIGKILL")


def test_a_process_that_cannot_be_killed_is_abandoned_with_its_leases() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, batch_timeout=10.0, kill_timeout=10.0)
    stage.begin()
    slot = stage.tasks[0].lease.slot
    stage.now = 10.0
    stage.look(1, task=0, state="T")
    said = stage.tell(m.ClockAdvanced(), after=10.0)
    assert m.AbandonProcess(1) in said
    stage.bring_up(said)
    assert stage.tasks[0].process == 2
    assert stage.tasks[0].lease.slot != slot
    assert slot in stage.sup.leases.retired


def test_no_replacement_starts_before_the_exit_is_confirmed() -> None:
    stage = Stage(num_workers=2, batch_timeout=10.0)
    stage.begin()
    stage.now = 10.0
    stage.tell(m.ClockAdvanced())
    said = stage.tell(m.ProcessInspected(1, 0, None, None, 0.0, 0.0, "T"))
    said += stage.die(2)
    assert only(m.StartProcess, said) == [m.StartProcess(3)]
    assert only(m.StartProcess, stage.die(1)) == [m.StartProcess(4)]


def test_the_lease_of_a_lost_task_is_free_only_after_the_exit() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, batch_timeout=10.0)
    stage.begin()
    lease = stage.tasks[0].lease
    stage.now = 10.0
    assert m.KillProcess(1) in stage.look(1, task=0, state="T")
    assert stage.sup.leases.holds(lease)
    stage.die(1)
    assert not stage.sup.leases.holds(lease)


def test_automatic_deadlines_learn_from_the_slowest_batch() -> None:
    stage = Stage(num_workers=1, prefetch_factor=2, batch_timeout="auto")
    stage.begin()
    assert stage.sup.next_deadline() == 120.0
    for task, seconds in ((0, 30.0), (1, 4.0)):  # a first batch says little of the others
        stage.ask()
        stage.now += seconds
        stage.tell(m.TaskLoaded(1, task, "batch", 64, None, stage.now - seconds, stage.now))
    assert stage.sup.next_deadline() == stage.now + 20.0
