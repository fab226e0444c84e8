"""What the supervisor does on an ordinary day, when an epoch is broken off, and at the end."""

from __future__ import annotations

import math
import sys
from typing import Any

from safeloader.core import messages as m
from tests.core.stage import Stage, only

# ---------------------------------------------------------------- an ordinary day


def test_every_worker_gets_a_process_and_all_start_at_once() -> None:
    stage = Stage(num_workers=3)
    said = stage.begin(ready=False)
    assert [c.process for c in only(m.StartProcess, said)] == [1, 2, 3]
    stage.ready(2)
    assert stage.homes == {1: 2}


def test_task_k_goes_to_worker_k_modulo_n_and_the_window_is_drawn_at_once() -> None:
    stage = Stage(num_workers=3, prefetch_factor=2)
    stage.begin()
    assert stage.drawn == 6
    assert [stage.tasks[k].worker for k in range(6)] == [0, 1, 2, 0, 1, 2]


def test_one_draw_for_each_batch_that_leaves_and_none_before() -> None:
    stage = Stage()
    stage.begin()
    drawn = stage.drawn
    stage.load(0)
    assert stage.drawn == drawn
    assert stage.get() == m.Deliver(0, "batch 0", stage.tasks[0].lease)
    assert stage.drawn == drawn + 1


def test_what_was_delivered_last_is_remembered_with_its_indices_and_nothing_else_of_it() -> None:
    stage = Stage()
    stage.begin()
    for number in range(20):
        stage.load(number)
        stage.get()
    last = list(stage.sup.schedule.delivered)
    assert last == [(0, n, n % 2, stage.tasks[n].indices) for n in range(4, 20)]


def test_batches_are_delivered_in_order() -> None:
    stage = Stage()
    stage.begin()
    stage.load(1)
    assert not only(m.Deliver, stage.ask())
    assert [c.task for c in only(m.Deliver, stage.load(0))] == [0]
    assert stage.get().task == 1  # type: ignore[union-attr]


def test_out_of_order_batches_are_delivered_as_they_come() -> None:
    stage = Stage(in_order=False)
    stage.begin()
    stage.load(1)
    assert stage.get().task == 1  # type: ignore[union-attr]


def test_an_exception_is_raised_at_its_batchs_turn() -> None:
    stage = Stage()
    stage.begin()
    stage.tell(m.TaskRaised(stage.tasks[1].process, 1, "boom", "raised", 2, None, 0.0))
    stage.load(0)
    assert stage.get().task == 0  # type: ignore[union-attr]
    assert stage.get() == m.DeliverError(1, 1, "boom")
    assert [(c.cause, c.sample) for c in only(m.ReportFault, stage.commands)] == [("raised", 2)]


def test_a_batch_that_came_in_the_message_gives_its_lease_back() -> None:
    stage = Stage()
    stage.begin()
    stage.load(0, nbytes=0)
    assert stage.get() == m.Deliver(0, "batch 0", None)
    assert stage.sup.leases.held == 4  # of the four tasks that are with the processes


def test_a_worker_whose_iterator_ended_drops_out_of_the_rotation() -> None:
    stage = Stage(indexed=False, prefetch_factor=1)
    stage.begin()
    stage.ask()
    stage.tell(m.WorkerEnded(stage.tasks[0].process, 0, None, 0.0))
    stage.load(1)
    assert {stage.tasks[k].worker for k in (2, 3)} == {1}


def test_the_epoch_ends_when_the_plan_and_the_queue_are_empty_and_says_so_again() -> None:
    stage = Stage(batches=1)
    stage.begin()
    stage.load(0)
    assert stage.get().task == 0  # type: ignore[union-attr]
    assert stage.get() == stage.get() == m.EndEpoch()


def test_samples_that_raised_are_reported_one_by_one_where_policy_skips_them() -> None:
    stage = Stage(on_bad_sample="skip")
    stage.begin()
    process = stage.tasks[0].process
    said = stage.tell(m.TaskLoaded(process, 0, "rest", 64, None, 0.0, 0.0, ((1, "ValueError"), (3, "OSError"))))
    assert [(c.indices, c.cause) for c in only(m.ReportSkipped, said)] == [((1,), "ValueError"), ((3,), "OSError")]


def test_a_batch_of_which_nothing_is_left_is_passed_over() -> None:
    stage = Stage(on_bad_sample="skip", batches=2)
    stage.begin()
    dropped = tuple((i, "ValueError") for i in range(4))
    stage.tell(m.TaskLoaded(stage.tasks[0].process, 0, None, 0, None, 0.0, 0.0, dropped))
    stage.load(1)
    assert stage.get().task == 1  # type: ignore[union-attr]
    assert stage.get() == m.EndEpoch()


# ---------------------------------------------------------------- fewer processes, same workers


def test_max_processes_hosts_all_workers_in_fewer_processes() -> None:
    stage = Stage(num_workers=4, max_processes=2)
    stage.begin()
    assert stage.homes == {0: 1, 1: 2, 2: 1, 3: 2}
    assert [stage.tasks[k].worker for k in range(4)] == [0, 1, 2, 3]


def test_a_process_with_several_workers_loads_in_the_order_in_which_batches_are_due() -> None:
    stage = Stage(num_workers=4, max_processes=2, prefetch_factor=2)
    stage.begin()
    to_first = [
        c for c in stage.commands if getattr(c, "process", 0) == 1 and isinstance(c, (m.HostWorker, m.SendTask))
    ]
    assert [c.task if isinstance(c, m.SendTask) else f"worker {c.worker}" for c in to_first] == [
        "worker 0", 0, "worker 2", 2, 4, 6,
    ]  # fmt: skip


def test_max_processes_zero_loads_in_the_trainer_when_a_batch_is_asked_for() -> None:
    stage = Stage(max_processes=0, batches=2)
    said = stage.begin()
    assert not only(m.StartProcess, said)
    assert stage.homes == {0: m.INLINE, 1: m.INLINE}
    for worker in (0, 1):
        stage.tell(m.WorkerReady(m.INLINE, worker, 0.0))
    for task in (0, 1):
        load = only(m.LoadInline, stage.ask())
        assert [(c.worker, c.task) for c in load] == [(task, task)]
        said = stage.tell(m.TaskLoaded(m.INLINE, task, "batch", 0, None, 0.0, 0.0))
        assert only(m.Deliver, said) == [m.Deliver(task, "batch", None)]
    assert stage.get() == m.EndEpoch()


# ---------------------------------------------------------------- epochs


def test_what_a_broken_off_epoch_left_is_finished_first_and_dropped() -> None:
    stage = Stage(num_workers=1, prefetch_factor=2)
    stage.begin()
    said = stage.begin()
    kinds = [type(c) for c in said if isinstance(c, (m.ResumeWorker, m.SendTask))]
    assert kinds == [m.ResumeWorker, m.SendTask, m.SendTask]
    stage.ask()
    assert not only(m.Deliver, stage.load(0) + stage.load(1))
    stage.tell(m.WorkerResumed(1, 0, 0.0))
    assert [c.task for c in only(m.Deliver, stage.load(2))] == [2]


def test_what_nobody_can_tell_from_undone_is_left_undone() -> None:
    stage = Stage(num_workers=1, prefetch_factor=3, stateless=True)
    stage.begin()
    said = stage.begin()
    assert only(m.CancelBefore, said) == [m.CancelBefore(1, 3)]
    stage.load(0)  # this was in work
    lease = stage.tasks[1].lease
    stage.tell(m.TaskCancelled(1, 1, 0.0))
    assert not stage.sup.leases.holds(lease)
    (start,) = only(m.StartProcess, stage.die(1))  # and what waits for the next process is not for that one
    assert [c.task for c in only(m.SendTask, stage.ready(start.process))] == [3, 4, 5]


def test_what_a_broken_off_epoch_planned_and_nobody_was_sent_is_dropped_at_once() -> None:
    stage = Stage(num_workers=1, prefetch_factor=2, stateless=True)
    stage.begin(ready=False)
    stage.begin(ready=False)
    assert sorted(stage.sup.tasks) == [2, 3]


def test_what_making_an_iterator_draws_is_part_of_the_workers_state() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, indexed=False)
    stage.begin(ready=False)
    stage.tell(m.ProcessReady(1))
    stage.tell(m.WorkerReady(1, 0, 0.0, "after the first iterator"))
    stage.load(0)
    stage.begin()
    stage.tell(m.WorkerResumed(1, 0, 0.0, "after the second"))
    host = only(m.HostWorker, stage.bring_up(stage.die(1)))[0]
    assert (host.epoch, host.position) == (1, 0)
    assert (host.epoch_snapshot, host.snapshot) == ("after the first iterator", "after the second")


def test_an_epoch_broken_off_before_any_process_was_ready_is_made_up_for() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1)
    stage.begin(ready=False)
    stage.begin(ready=False)
    said = stage.tell(m.ProcessReady(1))
    assert [type(c) for c in said] == [m.HostWorker, m.SendTask, m.ResumeWorker, m.SendTask]
    assert only(m.HostWorker, said)[0].epoch == 0


def test_a_batch_that_was_loaded_for_a_broken_off_epoch_gives_its_lease_back() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1)
    stage.begin()
    lease = stage.tasks[0].lease
    stage.load(0)
    stage.begin()
    assert not stage.sup.leases.holds(lease)


# ---------------------------------------------------------------- the end


def test_closing_asks_kills_and_abandons_in_turn() -> None:
    stage = Stage(num_workers=1, stop_timeout=5.0, kill_timeout=10.0)
    stage.begin()
    assert stage.tell(m.CloseRequested()) == [m.StopProcess(1)]
    assert stage.sup.next_deadline() == 5.0
    assert stage.tell(m.ClockAdvanced(), after=5.0) == [m.KillProcess(1)]
    assert m.AbandonProcess(1) in stage.tell(m.ClockAdvanced(), after=10.0)
    assert stage.sup.next_deadline() == math.inf


def test_a_process_that_still_starts_is_killed_at_once_when_the_loader_closes() -> None:
    stage = Stage(num_workers=1)
    stage.begin(ready=False)
    assert stage.tell(m.CloseRequested()) == [m.KillProcess(1)]
    assert stage.tell(m.ProcessReady(1)) == []
    assert stage.die(1) == []


def test_after_the_end_nothing_starts_and_only_exits_and_leases_count() -> None:
    stage = Stage(num_workers=1)
    stage.begin()
    stage.load(0)
    delivered = stage.get()
    assert isinstance(delivered, m.Deliver)
    assert delivered.lease is not None
    stage.tell(m.CloseRequested())
    assert stage.ask() == stage.tell(m.TaskPlanned([1])) == stage.tell(m.EpochBegan(1)) == stage.load(1) == []
    assert stage.die(1) == []
    stage.tell(m.LeaseReturned(delivered.lease))
    assert stage.sup.leases.held == 0


# ---------------------------------------------------------------- what it costs


def test_a_batch_costs_few_calls_in_the_steady_state() -> None:
    stage = Stage(num_workers=4, batches=10_000)
    stage.begin()
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call" and "core" in frame.f_code.co_filename

    handle, now, tasks = stage.sup.handle, 0.0, dict(stage.tasks)
    batches = 200
    sys.setprofile(count)
    try:
        for number in range(batches):
            sent = tasks.pop(number)
            handle(m.TaskLoaded(sent.process, number, b"", 64, None, now, now), now)
            for command in handle(m.BatchRequested(), now):
                if type(command) is m.PlanTask:
                    tasks.update({c.task: c for c in only(m.SendTask, handle(m.TaskPlanned([1]), now))})
                elif type(command) is m.Deliver:
                    handle(m.LeaseReturned(sent.lease), now)
    finally:
        sys.setprofile(None)
    assert not only(m.Deliver, stage.ask())
    assert calls / batches < 47
