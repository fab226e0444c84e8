"""Who is to blame, what is done about it, and what never happens in the trainer."""

from __future__ import annotations

from typing import Any

import pytest

from safeloader.core import messages as m
from tests.core.stage import Stage, only


def kill_while_loading(stage: Stage, task: int, sample: int | None, times: int) -> list[m.Command]:
    """Processes die of a task, one after the other."""
    said: list[m.Command] = []
    for _ in range(times):
        said = stage.die(stage.tasks[task].process, task=task, sample=sample, detail="SIGSEGV")
        said += stage.bring_up(said)
    return said


# ---------------------------------------------------------------- a known sample


def test_a_sample_is_bad_after_one_and_bad_sample_attempts_deaths() -> None:
    stage = Stage(num_workers=1, prefetch_factor=2, bad_sample_attempts=2)
    stage.begin()
    stage.ask()
    assert not only(m.DeliverBadSample, kill_while_loading(stage, 0, sample=3, times=2))
    said = kill_while_loading(stage, 0, sample=3, times=1)
    assert only(m.DeliverBadSample, said) == [m.DeliverBadSample(0, 0, 0, 0, (3,), "died", 3, None)]
    stage.load(1)
    assert stage.get().task == 1, "the run may go on"  # type: ignore[union-attr]


def test_a_bad_sample_is_left_out_where_policy_says_so() -> None:
    stage = Stage(num_workers=1, on_bad_sample="skip", bad_sample_attempts=1)
    stage.begin()
    said = kill_while_loading(stage, 0, sample=3, times=2)
    assert [(c.indices, c.cause) for c in only(m.ReportSkipped, said)] == [((3,), "died")]
    assert stage.tasks[0].skip == (3,)
    stage.load(0)
    assert stage.get().task == 0  # type: ignore[union-attr]


def test_a_batch_with_nothing_but_bad_samples_is_passed_over() -> None:
    stage = Stage(num_workers=1, size=1, batches=1, on_bad_sample="skip", bad_sample_attempts=1)
    stage.begin()
    kill_while_loading(stage, 0, sample=0, times=2)
    assert stage.get() == m.EndEpoch()


def test_deaths_that_a_bad_sample_explains_do_not_count_against_the_fleet() -> None:
    stage = Stage(num_workers=2, on_bad_sample="skip", bad_sample_attempts=2, max_restarts=4)
    stage.begin()
    kill_while_loading(stage, 0, sample=1, times=3)
    kill_while_loading(stage, 1, sample=2, times=3)
    assert stage.rung == 2


def test_the_next_task_of_an_iterable_worker_that_kills_ends_that_worker() -> None:
    stage = Stage(num_workers=2, indexed=False, prefetch_factor=1, bad_sample_attempts=1)
    stage.begin()
    stage.ask()
    said = kill_while_loading(stage, 0, sample=None, times=2)
    assert [(c.worker, c.indices) for c in only(m.DeliverBadSample, said)] == [(0, ())]
    assert only(m.HostWorker, said)[-1].ended


# ---------------------------------------------------------------- a hunt


def hunt(bad: set[int], size: int = 8, **settings: Any) -> tuple[Stage, list[m.Command]]:
    """Let the supervisor find out which positions of the first batch kill, with no hint from the progress page."""
    stage = Stage(num_workers=1, size=size, prefetch_factor=1, bad_sample_attempts=1, **settings)
    stage.begin()
    stage.ask()
    said = kill_while_loading(stage, 0, sample=None, times=2)
    for _ in range(40):
        probes = only(m.SendProbe, said)
        if not probes:
            break
        probe = probes[-1]
        if bad & set(probe.positions):
            said = stage.die(probe.process, task=0, detail="SIGSEGV")
            said += stage.bring_up(said)
        else:
            said = stage.tell(m.ProbeFinished(probe.process, 0, stage.now))
            for host in only(m.HostWorker, said):
                stage.tell(m.WorkerReady(host.process, host.worker, stage.now))
    return stage, said


def test_a_hunt_finds_the_sample_that_kills() -> None:
    for culprit in range(8):
        _, said = hunt({culprit})
        assert [c.indices for c in only(m.DeliverBadSample, said)] == [(culprit,)]


def test_a_hunt_is_no_reason_for_fewer_processes() -> None:
    stage, _ = hunt({5}, max_restarts=2)
    assert not only(m.ReportRung, stage.commands)


def test_a_copy_that_is_only_probed_does_nothing_again() -> None:
    stage = Stage(num_workers=1, size=8, prefetch_factor=1, bad_sample_attempts=1)
    stage.begin()
    stage.load(0)
    stage.ask()
    said = kill_while_loading(stage, 1, sample=None, times=2)
    assert only(m.SendProbe, said)
    assert [len(host.redo or ()) for host in only(m.HostWorker, stage.commands)] == [0, 1, 0]


def test_after_a_hunt_the_worker_is_set_up_again_with_its_generators() -> None:
    stage, said = hunt(set(), on_bad_sample="skip")
    host = only(m.HostWorker, said)
    assert len(host) == 1, "its copy has seen what the stream must not know of"
    assert (host[0].position, host[0].snapshot) == (0, None)
    assert stage.tasks[0].skip == ()


def test_a_batch_that_still_kills_after_a_hunt_without_result_is_convicted_whole() -> None:
    stage, _ = hunt(set(), on_bad_sample="raise")
    said = kill_while_loading(stage, 0, sample=None, times=2)
    for _ in range(2):
        said = stage.tell(m.ProbeFinished(only(m.SendProbe, said)[-1].process, 0, stage.now))
    assert [c.indices for c in only(m.DeliverBadSample, said)] == [tuple(range(8))]


def test_a_hunt_for_a_batch_that_nobody_wants_any_more_is_called_off() -> None:
    stage = Stage(num_workers=1, prefetch_factor=1, bad_sample_attempts=1)
    stage.begin()
    probe = only(m.SendProbe, kill_while_loading(stage, 0, sample=None, times=2))[-1]
    stage.begin()
    said = stage.tell(m.ProbeFinished(probe.process, 0, stage.now))
    assert [type(c) for c in said] == [m.DropWorker, m.HostWorker, m.ResumeWorker, m.SendTask]


# ---------------------------------------------------------------- in the trainer


def test_a_task_that_killed_is_never_tried_in_the_trainer() -> None:
    stage = Stage(num_workers=2, max_restarts=0, max_processes=1, bad_sample_attempts=2)
    stage.begin()
    said = stage.die(1, task=0)
    assert stage.rung == 0
    assert only(m.StartProcess, said) == [m.StartProcess(2)], "an escort for what is dangerous"
    stage.tell(m.WorkerReady(m.INLINE, 1, 0.0))
    stage.ready(2)
    assert stage.homes == {0: 2, 1: m.INLINE}
    assert not only(m.LoadInline, stage.ask())
    said = [c for task in sorted(t for t, c in stage.tasks.items() if c.process == 2) for c in stage.load(task)]
    assert m.StopProcess(2) in said, "the escort has done its duty"
    assert stage.homes[0] == m.INLINE


def test_a_task_that_was_interrupted_in_the_trainer_goes_to_a_process() -> None:
    stage = Stage(num_workers=1, max_processes=0, bad_sample_attempts=2)
    stage.begin()
    stage.tell(m.WorkerReady(m.INLINE, 0, 0.0))
    assert only(m.LoadInline, stage.ask())
    said = stage.tell(m.InlineInterrupted(0, 2, "in __getitem__"))
    assert [(c.cause, c.sample, c.stack) for c in only(m.ReportFault, said)] == [("hung", 2, "in __getitem__")]
    stage.bring_up(said)
    assert stage.tasks[0].process == 1
    assert only(m.Deliver, stage.load(0))


def starts_fail(stage: Stage, said: list[m.Command], memory_short: bool = False) -> list[m.Command]:
    """Whatever starts is killed while it starts."""
    everything: list[m.Command] = []
    while starts := only(m.StartProcess, said):
        said = [c for s in starts for c in stage.die(s.process, detail="SIGKILL", memory_short=memory_short)]
        everything += said
    return everything


@pytest.mark.parametrize("memory_short", [False, True])
@pytest.mark.parametrize("in_work", [0, 1, 2])
def test_where_no_process_can_be_had_the_trainer_loads_all_but_what_hurt_one(in_work: int, memory_short: bool) -> None:
    stage = Stage(num_workers=1, max_restarts=2, prefetch_factor=2, bad_sample_attempts=2)
    stage.begin()
    stage.ask()
    said = [c for c in stage.commands if isinstance(c, m.StartProcess)]
    if in_work:
        said = kill_while_loading(stage, 0, sample=2, times=in_work - 1)
        said = stage.die(stage.tasks[0].process, task=0, sample=2, detail="SIGKILL", memory_short=memory_short)
    else:
        said = stage.die(1, memory_short=memory_short)
    starts_fail(stage, said, memory_short)
    assert not only(m.GiveUp, stage.commands)
    assert stage.rung == 0
    given_up = only(m.DeliverBadSample, stage.commands)
    assert [(c.indices, c.unresolved) for c in given_up] == ([((2,), True)] if in_work else [])
    stage.tell(m.WorkerReady(m.INLINE, 0, 0.0))
    stage.tell(*([m.BatchRequested()] if in_work else []))
    assert [c.task for c in only(m.LoadInline, stage.commands)] == [1 if in_work else 0]


def test_what_hurt_a_process_is_left_out_where_none_can_be_had_and_policy_says_skip() -> None:
    stage = Stage(num_workers=1, max_restarts=1, prefetch_factor=1, on_bad_sample="skip")
    stage.begin()
    stage.ask()
    starts_fail(stage, stage.die(1, task=0, sample=2, detail="SIGKILL"))
    skipped = only(m.ReportSkipped, stage.commands)
    assert [c.indices for c in skipped] == [(2,), (0, 1, 3)], "the rest was in work with it"
    assert all(c.unresolved for c in skipped)
    assert not stage.sup.closed


def test_a_hunt_ends_where_no_process_can_be_had() -> None:
    stage = Stage(num_workers=1, max_restarts=0, max_processes=1, prefetch_factor=1, bad_sample_attempts=1)
    stage.begin()
    stage.ask()
    probe = only(m.SendProbe, kill_while_loading(stage, 0, sample=None, times=2))[-1]
    said = stage.die(probe.process, task=0, detail="SIGSEGV")
    starts_fail(stage, said)
    assert [c.indices for c in only(m.DeliverBadSample, stage.commands)] == [probe.positions]


def test_a_set_up_that_killed_ends_the_loader_where_no_process_can_be_had() -> None:
    stage = Stage(num_workers=1, max_restarts=1, prefetch_factor=1)
    stage.begin(ready=False)
    stage.tell(m.ProcessReady(1))
    starts_fail(stage, stage.die(1, setup=0, detail="SIGKILL"))
    assert [c.cause for c in only(m.GiveUp, stage.commands)] == ["starts"]


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_set_up_that_is_killed_at_the_lowest_rung_is_tried_as_often_as_policy_says(attempts: int) -> None:
    stage = Stage(num_workers=1, max_processes=0, max_restarts=0, bad_sample_attempts=attempts)
    stage.begin()
    said = stage.tell(m.InlineRefused(0, "os.setsid()"))
    for _ in range(attempts):
        process = only(m.StartProcess, said)[0].process
        stage.tell(m.ProcessReady(process))
        said = stage.die(process, setup=0, detail="SIGKILL")
        assert not only(m.GiveUp, said)
    process = only(m.StartProcess, said)[0].process
    stage.tell(m.ProcessReady(process))
    assert only(m.GiveUp, stage.die(process, setup=0, detail="SIGKILL")) == [m.GiveUp("setup", None, "died")]


def test_what_the_trainer_could_not_undo_is_done_in_a_process() -> None:
    stage = Stage(num_workers=2, max_processes=0)
    stage.begin()
    for worker in (0, 1):
        stage.tell(m.WorkerReady(m.INLINE, worker, 0.0))
    stage.ask()
    said = stage.tell(m.InlineRefused(0, "os.nice(5)"))
    assert only(m.ReportRefused, said) == [m.ReportRefused(0, "os.nice(5)")]
    assert not only(m.ReportFault, said), "nobody did anything wrong"
    stage.bring_up(said)
    assert stage.homes == {0: 1, 1: m.INLINE}
    assert only(m.Deliver, stage.load(0))
    assert stage.homes[0] == 1, "it stays there"


def test_what_the_trainer_could_not_undo_is_left_out_where_no_process_can_be_had() -> None:
    stage = Stage(num_workers=1, max_processes=0, max_restarts=1)
    stage.begin()
    stage.tell(m.WorkerReady(m.INLINE, 0, 0.0))
    stage.ask()
    said = starts_fail(stage, stage.tell(m.InlineRefused(0, "os.nice(5)")))
    assert [(c.process, c.lenient) for c in only(m.HostWorker, said)] == [(m.INLINE, True)]
    assert not stage.sup.closed


def test_deaths_of_the_escort_that_a_task_explains_do_not_end_the_loader() -> None:
    stage = Stage(num_workers=1, max_restarts=0, max_processes=1, bad_sample_attempts=3)
    stage.begin()
    stage.ask()
    said = kill_while_loading(stage, 0, sample=1, times=4)
    assert [c.indices for c in only(m.DeliverBadSample, said)] == [(1,)]
    assert not stage.sup.closed
