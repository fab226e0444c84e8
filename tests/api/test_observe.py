"""The recorder counts and keeps what it is told; the report gives it back to people and programs."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from safeloader.config import Policy, resolve
from safeloader.observe import Fault, Recorder, Report
from safeloader.observe.recorder import MOST_FAULTS
from safeloader.observe.timings import Lost

DOC = Path(__file__).parents[2] / "docs" / "events.md"
NOON = 1763694764.0
TRACEBACK = """Traceback (most recent call last):
  File "/opt/app/host.py", line 90, in main
    load(task)
  File "/home/me/project/data/photos.py", line 41, in __getitem__
    time.sleep(1e9)
"""


def fault(cause: str = "died", **more: Any) -> Fault:
    """The fault that the tests talk about, with some facts replaced."""
    about = Fault(NOON, "train", cause, worker=1, process=4711, epoch=0, batch=12, sample=392)
    return dataclasses.replace(about, **more)


def recorder(events: object = "none", **more: Any) -> Recorder:
    return Recorder("train", resolve(environ={"SAFELOADER_EVENTS": str(events)}), workers=4, **more)


def eventful() -> Recorder:
    """A recorder that has lived through a little of everything."""
    told = recorder()
    told.batches = 18_500
    first = told.fault(fault(detail="SIGKILL", action="restarted", indices=[5, 392, 17, 2], stack=TRACEBACK))
    told.started(4712, [1], 1.9)
    told.resumed(first, 2.13)
    told.fault(fault("hung", action="fell back to 2 processes", attempts=2, stalled=120.2))
    told.fell_back(4, 2, "too many faults")
    told.recovered(2, 4)
    told.slow(13, 0, 131.0, 7)
    told.skipped(0, 12, 392, "died")
    told.code_changed(["photos.py"])
    told.epoch(0, 18_500)
    return told


def test_the_report_reads_like_this() -> None:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOON))
    assert str(eventful().report()) == (
        "train: 18,500 batches, 1 epoch, 4 processes now for 4 workers\n"
        "\n"
        f"fault 1, {at}: died (SIGKILL)\n"
        "  where: epoch 0, batch 12, worker 1, pid 4711, sample 392\n"
        "  stack:\n"
        "    Traceback (most recent call last):\n"
        '      File "/opt/app/host.py", line 90, in main\n'
        "        load(task)\n"
        '      File "/home/me/project/data/photos.py", line 41, in __getitem__\n'
        "        time.sleep(1e9)\n"
        "  done:  a new process takes over\n"
        "  lost:  2.1 s\n"
        "\n"
        f"fault 2, {at}: hung, silent for 120 s\n"
        "  where: epoch 0, batch 12, worker 1, pid 4711, sample 392, attempt 2\n"
        "  done:  the loader falls back to 2 processes\n"
        "  lost:  not known yet\n"
        "\n"
        "total: 2 faults (1 died, 1 hung), 1 restart, 1 fallback, 1 recovery, 1 skipped sample, "
        "1 slow batch, 2.1 s lost\n"
        "skipped: 392 (epoch 0, batch 12)\n"
        "code changed since the first start: photos.py"
    )


def test_the_report_of_a_quiet_run_is_short() -> None:
    assert str(recorder().report()) == (
        "train: 0 batches, 0 epochs, 4 processes now for 4 workers\n"
        "\n"
        "total: no faults, 0 restarts, 0 fallbacks, 0 recoveries, 0 skipped samples, 0 slow batches, "
        "0.0 s lost"
    )


def test_the_report_says_where_the_workers_are() -> None:
    told = recorder()
    told.fell_back(1, 0, "memory is short")
    assert str(told.report()).startswith("train: 0 batches, 0 epochs, all 4 workers now in the main process\n")
    assert str(Report("val")).startswith("val: 0 batches, 0 epochs, no workers\n")
    assert Recorder("train", resolve(Policy(max_processes=2), {}), workers=4).report().rung == 2


def test_a_report_is_a_plain_dict_for_json_with_stable_keys() -> None:
    report = eventful().report()
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found == report.to_dict()
    assert found["v"] == 1
    assert found["causes"] == {"died": 1, "hung": 1}
    assert found["skipped"] == [[0, 12, 392]]
    assert found["faults"][0]["seconds_lost"] == 2.13
    assert found["faults"][0]["stack"] == TRACEBACK
    assert set(found) == {
        "v", "name", "replays", "divergences", "batches", "epochs", "faults", "causes", "restarts", "fallbacks", "recoveries", "rung",
        "workers", "skipped", "slow_batches", "seconds_lost", "code_changed", "waits", "way", "timings", "memory",
        "shared_memory", "shadows", "shadow_memory", "unshadowed", "uncovered", "reopened",
        "advice",
    }  # fmt: skip
    text = DOC.read_text(encoding="utf-8")
    assert all(f"`{key}`" in text[text.index("## The report") :] for key in found)


def test_a_report_survives_pickle_and_shows_itself_briefly_where_it_is_nested() -> None:
    report = eventful().report()
    assert pickle.loads(pickle.dumps(report)) == report
    assert repr([report]) == "[<Report of 'train': 18,500 batches, 2 faults>]"


def test_a_report_is_a_copy() -> None:
    told = eventful()
    before = told.report()
    told.fault(fault())
    told.skipped(1, 1, 1, "hung")
    assert (len(before.faults), len(before.skipped)) == (2, 1)
    assert (len(told.report().faults), len(told.report().skipped)) == (3, 2)


def test_time_and_loader_of_a_fault_are_filled_in_if_they_are_missing() -> None:
    told = recorder(clock=lambda: 5.0)
    told.fault(Fault(0.0, "", "died"))
    told.fault(fault())
    assert [(row.time, row.loader) for row in told.report().faults] == [(5.0, "train"), (NOON, "train")]


def test_seconds_that_several_faults_cost_at_once_are_lost_once() -> None:
    told = recorder()
    one, two = told.fault(fault()), told.fault(fault(seconds_lost=1.0))
    told.resumed(one, 2.0)
    told.resumed(one, 3.0)
    told.resumed(two, 4.0)
    report = told.report()
    assert [row.seconds_lost for row in report.faults] == [3.0, 4.0]
    assert report.seconds_lost == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize(
    ("stretches", "lost"),
    [
        ([(10, 2), (20, 3)], 5),  # apart
        ([(10, 5), (12, 5)], 7),  # overlapping
        ([(10, 2), (20, 3), (21, 15)], 15),  # one that holds all before it
        ([(10, 4), (10, 4)], 4),  # the same
        ([(10, 0), (10, -1)], 0),
    ],
)
def test_lost_time_is_the_union_of_its_stretches(stretches: list[tuple[float, float]], lost: float) -> None:
    told = Lost()
    for now, seconds in stretches:
        told.add(now, seconds)
    assert told.seconds == pytest.approx(lost)


def test_only_a_process_that_stands_in_for_a_lost_one_counts_as_a_restart() -> None:
    told = recorder()
    for pid, worker in ((1, 0), (2, 1)):
        told.started(pid, [worker], 1.0)
    told.fault(fault(worker=1))
    told.started(3, [0], 1.0)
    assert told.report().restarts == 0
    told.started(4, [1, 2], 1.0)
    told.started(5, [1], 1.0)
    assert told.report().restarts == 1
    told.fault(fault("raised", worker=0))
    told.started(6, [0], 1.0)
    assert told.report().restarts == 1
    told.fault(fault(worker=None))
    told.started(7, [3], 1.0)
    assert told.report().restarts == 2


def test_very_many_faults_are_counted_but_not_all_kept() -> None:
    told = recorder()
    numbers = [told.fault(fault(epoch=n)) for n in range(MOST_FAULTS + 5)]
    told.resumed(numbers[0], 2.0)
    report = told.report()
    assert numbers == list(range(MOST_FAULTS + 5))
    assert len(report.faults) == MOST_FAULTS
    assert report.faults[0].epoch == 5
    assert report.causes == {"died": MOST_FAULTS + 5}
    assert report.seconds_lost == 2.0
    assert "\n5 earlier faults no longer kept in full\n\nfault 6, " in str(report)


def test_that_no_batch_is_lost_is_not_said_where_a_dataset_lost_what_it_had_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = recorder()
    with caplog.at_level("INFO", "safeloader"):
        first = told.fault(fault(detail="SIGKILL", action="restarted"))
        told.resumed(first, 1.0)
        second = told.fault(fault(detail="SIGKILL", action="restarted", time=0.0))
        told.replayed(1, 0, "lost", "generators", 12, 12, 0, "", "goes on")
        told.resumed(second, 1.0)
    came = [line for line in caplog.messages if "batches come again" in line]
    assert ["no batch is lost" in line for line in came] == [True, False]
