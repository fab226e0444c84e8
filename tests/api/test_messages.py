"""The words of the log: what each line says, at which level, and what it makes of stacks and numbers."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from safeloader.observe import Fault, events
from safeloader.observe.format import duration, inline, many, stack_lines, stack_place
from safeloader.observe.log import level_for
from safeloader.observe.messages import line_for

NOON = 1763694764.0

TRACEBACK = """Traceback (most recent call last):
  File "/opt/app/host.py", line 90, in main
    load(task)
  File "/home/me/project/data/photos.py", line 41, in __getitem__
    time.sleep(1e9)
"""
FAULTHANDLER = """Thread 0x00007f01 (most recent call first):
  File "/opt/app/pipe.py", line 7 in read

Current thread 0x00007f02 (most recent call first):
  File "/home/me/project/data/photos.py", line 41 in decode
  File "/opt/app/host.py", line 90 in main
"""


def fault(cause: str = "died", **more: Any) -> Fault:
    """The fault that the tests talk about, with some facts replaced."""
    about = Fault(NOON, "train", cause, worker=1, process=4711, epoch=0, batch=12, sample=392)
    return dataclasses.replace(about, **more)


def replay(outcome: str, source: str = "beginning", **more: Any) -> events.Replayed:
    """What came of a replay, with some facts replaced."""
    about = events.Replayed(NOON, "train", 1, 0, outcome, source, 0, 12, 0, "", "goes on")
    return dataclasses.replace(about, **more)


LINES = {
    "killed": (
        fault(detail="SIGKILL", action="restarted", verdict="again"),
        (
            "train: worker 1 (pid 4711) was killed by SIGKILL while loading batch 12 of epoch 0 "
            "(sample 392); a new process takes over and loads this batch again"
        ),
    ),
    "exit code 0": (
        fault(detail="exit code 0", action="restarted"),
        (
            "train: worker 1 (pid 4711) ended with exit code 0 while loading batch 12 of epoch 0 "
            "(sample 392); a new process takes over"
        ),
    ),
    "segfault with a stack": (
        fault(detail="SIGSEGV", action="restarted", stack=FAULTHANDLER),
        (
            "train: worker 1 (pid 4711) crashed with SIGSEGV while loading batch 12 of epoch 0 "
            "(sample 392), at data/photos.py:41 in decode; a new process takes over"
        ),
    ),
    "hung": (
        fault("hung", action="restarted", stack=TRACEBACK, stalled=120.2, attempts=2, verdict="again"),
        (
            "train: worker 1 (pid 4711) hung while loading batch 12 of epoch 0 (sample 392), attempt "
            "2: no sample finished for 120 s, stuck at data/photos.py:41 in __getitem__; a new "
            "process takes over and loads this batch again"
        ),
    ),
    "stopped": (
        fault("stopped", action="restarted", stalled=3.01),
        (
            "train: worker 1 (pid 4711) was found stopped (SIGSTOP or a debugger) and silent for 3.0 "
            "s while loading batch 12 of epoch 0 (sample 392); a new process takes over"
        ),
    ),
    "out of memory": (
        fault("oom", detail="SIGKILL", action="fell back to 2 processes", sample=None, indices=[7, 3, 9, 1]),
        (
            "train: worker 1 (pid 4711) was killed because memory is short (SIGKILL) while loading "
            "batch 12 of epoch 0 (samples 7, 3, 9, ... (4 in all)); the loader falls back to 2 "
            "processes; fewer workers, smaller batches or a smaller prefetch_factor need less "
            "memory"
        ),
    ),
    "failed start": (
        fault("failed_start", batch=None, sample=None, stalled=300.4, detail="SIGKILL", action="restarted"),
        ("train: worker 1 (pid 4711) did not start: not ready after 300 s; a new process takes over"),
    ),
    "died while idle": (
        fault(worker=None, batch=None, sample=None, detail="SIGKILL", action="restarted"),
        ("train: process 4711 was killed by SIGKILL while no batch was in work; a new process takes over"),
    ),
    "cannot be killed": (
        fault("hung", detail="could not be killed", action="abandoned", stalled=130.0),
        (
            "train: worker 1 (pid 4711) hung while loading batch 12 of epoch 0 (sample 392): no "
            "sample finished for 130 s; it cannot be killed and is left behind with its memory, a "
            "new process takes over"
        ),
    ),
    "hung in the main process": (
        fault("hung", process=os.getpid(), detail="interrupted in the main process", action="moved to a process"),
        (
            "train: worker 1 (in the main process) hung while loading batch 12 of epoch 0 (sample "
            "392): no sample finished in time; it is interrupted, and a process of its own takes "
            "over"
        ),
    ),
    "raised": (
        fault("raised", detail="ValueError: bad\nimage", action="raised"),
        (
            "train: worker 1 (pid 4711) raised ValueError: bad image while loading batch 12 of epoch "
            "0 (sample 392); the error is raised at this batch's turn"
        ),
    ),
    "unpicklable": (
        fault("unpicklable", detail="cannot pickle '_thread.lock' object", action="raised"),
        (
            "train: worker 1 (pid 4711) loaded batch 12 of epoch 0 (sample 392), which cannot be "
            "sent to the main process: cannot pickle '_thread.lock' object; the error is raised "
            "at this batch's turn"
        ),
    ),
    "bad sample skipped": (
        fault("bad_sample", detail="SIGSEGV", attempts=3, action="skipped sample 392"),
        (
            "train: sample 392 of batch 12 of epoch 0 is bad: it failed 3 times, the last time with "
            "SIGSEGV; skipped sample 392; loader.report() lists it"
        ),
    ),
    "bad sample raised": (
        fault("bad_sample", attempts=3, action="raised"),
        (
            "train: sample 392 of batch 12 of epoch 0 is bad: it failed 3 times; the error is raised "
            "at this batch's turn"
        ),
    ),
    "left out": (
        events.Skipped(NOON, "train", 0, 12, 392, "died"),
        "train: left out bad sample 392 of batch 12 of epoch 0 (died); loader.report() lists it",
    ),
    "fell back": (
        events.FellBack(NOON, "train", 4, 2, "too many faults"),
        (
            "train: falls back from 4 processes to 2 processes (too many faults); the workers and "
            "the batches stay the same"
        ),
    ),
    "fell back to none": (
        events.FellBack(NOON, "train", 1, 0, "memory is short"),
        (
            "train: falls back from 1 process to the main process alone (memory is short); the "
            "workers and the batches stay the same"
        ),
    ),
    "another way": (
        events.FellBack(
            NOON, "train", 2, 1, "it hung", "FFCV in a process with 2 workers", "FFCV in a process with 1 worker"
        ),
        (
            "train: falls back from FFCV in a process with 2 workers to FFCV in a process with 1 worker (it hung); "
            "the samples and their order stay the same"
        ),
    ),
    "resized": (
        events.Resized(NOON, "train", 6, 128, 160, 0.034),
        "train: epoch 6 has images of 160 pixels, after 128 (0.03 s)",
    ),
    "recovered": (
        events.Recovered(NOON, "train", 1, 2, ""),
        "train: recovers from 1 process to 2 processes; the workers and the batches stay the same",
    ),
    "stayed": (
        events.Stayed(NOON, "train", 4),
        (
            "train: too many faults for 4 processes; they stay, since fewer would lose what their datasets have changed "
            "in themselves"
        ),
    ),
    "a change is lost": (
        replay("lost", "dataset"),
        (
            "train: worker 1 has a new copy of its dataset: what the dataset had changed in itself (a cache, a counter) "
            "is lost with its process, so batches may not be those of an undisturbed run"
        ),
    ),
    "killed, and a stream is read again": (
        fault(detail="SIGKILL", action="restarted", again=12),
        (
            "train: worker 1 (pid 4711) was killed by SIGKILL while loading batch 12 of epoch 0 (sample 392); a new "
            "process takes over, 12 delivered batches are loaded again and compared"
        ),
    ),
    "killed, and nothing can be compared": (
        fault(detail="SIGKILL", action="fell back to 1 process", again=0),
        (
            "train: worker 1 (pid 4711) was killed by SIGKILL while loading batch 12 of epoch 0 (sample 392); "
            "the loader falls back to 1 process"
        ),
    ),
    "came again the same": (
        replay("same", compared=12),
        "train: worker 1 stands where it stood: all 12 batches that it had loaded came again the same, no batch is lost",
    ),
    "came again the same, as far as can be told": (
        replay("same", compared=5),
        "train: worker 1 stands where it stood: the last 5 of 12 batches that it had loaded came again the same",
    ),
    "came again the same after its own state": (
        replay("same", "state", compared=12),
        "train: worker 1 stands where it stood: all 12 batches that it had loaded came again the same",
    ),
    "nothing to compare": (
        replay("unknown", "state"),
        (
            "train: worker 1 goes on from its dataset's own state, and there was nothing to compare with: that this is "
            "exact is not known"
        ),
    ),
    "reads something else": (
        replay("differs", at=3, action="raises"),
        (
            "train: worker 1 reads its epoch again, and it is not the same: of 12 batches that it had loaded, the 4th is "
            "not the one that was delivered; it ends"
        ),
    ),
    "ends early": (
        replay("ended", at=9),
        (
            "train: worker 1 reads its epoch again, and it is not the same: of 12 batches that it had loaded, only 9 "
            "batches came; samples may come twice or never from here on"
        ),
    ),
    "raises when it is read again": (
        replay("raised", detail="OSError: gone", action="reads again", source="state"),
        (
            "train: worker 1 reads from its dataset's own state again, and it is not the same: of 12 batches that it had "
            "loaded, the 1st raises an error (OSError: gone); that state is not used, and the epoch is read again from further back"
        ),
    ),
    "a state is refused": (
        replay("refused", "state", detail="IndexError: list index out of range", action="reads again"),
        (
            "train: the dataset of worker 1 does not take the state that it told (IndexError: list index out of range); "
            "that state is not used, and the epoch is read again from further back"
        ),
    ),
    "generators are missing": (
        replay("missing", "generators", detail="dataset.rng"),
        (
            "train: worker 1: random generators of its dataset could not be put back, and draw other numbers "
            "(dataset.rng)"
        ),
    ),
    "killed, the last attempt": (
        fault(detail="SIGKILL", action="restarted", attempts=3, verdict="raised"),
        (
            "train: worker 1 (pid 4711) was killed by SIGKILL while loading batch 12 of epoch 0 (sample 392), attempt 3; "
            "this batch is not tried again, and BadSampleError is raised at its turn"
        ),
    ),
    "killed, the last attempt, and skipped": (
        fault(detail="SIGKILL", action="handed over", attempts=3, verdict="skipped"),
        (
            "train: worker 1 (pid 4711) was killed by SIGKILL while loading batch 12 of epoch 0 (sample 392), attempt 3; "
            "a process that stands ready takes over; the sample is left out of its batch"
        ),
    ),
    "killed, and no sample is known": (
        fault(detail="SIGKILL", action="restarted", attempts=3, verdict="searched", sample=None),
        (
            "train: worker 1 (pid 4711) was killed by SIGKILL while loading batch 12 of epoch 0, attempt 3; a new process "
            "takes over and loads parts of this batch, to find the sample that does it"
        ),
    ),
    "killed, and the loader ends": (
        fault(detail="SIGKILL", action="restarted", verdict="ended"),
        (
            "train: worker 1 (pid 4711) was killed by SIGKILL while loading batch 12 of epoch 0 (sample 392); the loader "
            "ends with an error"
        ),
    ),
    "found stopped at once": (
        fault("stopped", action="restarted", stalled=0.004, batch=None, sample=None),
        (
            "train: worker 1 (pid 4711) was found stopped (SIGSTOP or a debugger) while no batch was in work; a new process "
            "takes over"
        ),
    ),
    "slow": (
        events.Slow(NOON, "train", 12, 1, 131.4, 392, 1),
        ("train: worker 1 is slow: 131 s on batch 12 (now at sample 392); samples still finish, so nothing is killed"),
    ),
    "slow again": (
        events.Slow(NOON, "train", 90, 1, 131.4, None, 8),
        (
            "train: worker 1 is slow: 131 s on batch 90; samples still finish, so nothing is killed; "
            "8 slow batches so far"
        ),
    ),
    "not undone, moved": (
        events.NotUndone(NOON, "train", 0, "os.nice(5)", "moved to a process"),
        "train: os.nice(5) could not be undone in the main process; worker 0 goes on in a process of its own",
    ),
    "not undone, left out": (
        events.NotUndone(NOON, "train", 0, "os.setsid()", "left out"),
        "train: os.setsid() could not be undone in the main process; it is left out for worker 0, since no process can be started",
    ),
    "not undone, done": (
        events.NotUndone(NOON, "train", 0, "priority (now 5, and 0 before)", "done"),
        "train: worker 0 has changed the main process, which hosts it, for good: priority (now 5, and 0 before)",
    ),
    "code changed": (
        events.CodeChanged(NOON, "train", ["photos.py", "crop.py"]),
        (
            "train: source changed since the first start: photos.py, crop.py; processes started from "
            "now on run the new code"
        ),
    ),
    "unshadowed": (
        events.Unshadowed(NOON, "train", "it holds a connection (socket)"),
        (
            "train: a process cannot keep a sleeping copy of itself: it holds a connection (socket); after a fault, what "
            "the dataset has changed in itself is restored only as far as its state_dict, or loading again, can do so"
        ),
    ),
    "reopened": (
        events.Reopened(NOON, "train", ["dataset.file (/data/a.bin, at byte 10)", "dataset.index (/data/i.db)"]),
        ("train: each worker opens for itself: dataset.file (/data/a.bin, at byte 10); dataset.index (/data/i.db)"),
    ),
    "differs": (
        events.Differs(NOON, "train", 4712, ["the limit RLIMIT_AS was -1, and cannot be raised above 9 any more"]),
        (
            "train: process 4712 is not in all as the program was when iteration began: the limit RLIMIT_AS was -1, and "
            "cannot be raised above 9 any more"
        ),
    ),
    "slow start": (
        events.SlowStart(NOON, "train", 4713, 12.0, "it imports torch and numpy", FAULTHANDLER),
        (
            "train: process 4713 is not ready after 12 s: it imports torch and numpy, at data/photos.py:41 in decode; it is "
            "waited for"
        ),
    ),
    "stalled in the loader": (
        events.Stalled(
            NOON,
            "train",
            "loader",
            300.0,
            True,
            3,
            0,
            12,
            1,
            4711,
            77,
            "worker 1 (pid 4711) has worked on sample 77",
            94.0,
        ),
        (
            "train: no batch for 300 s: the program waits for batch 12 of epoch 0; worker 1 (pid 4711) has worked on "
            "sample 77, for 94 s"
        ),
    ),
    "stalled in the loader of the main process": (
        events.Stalled(NOON, "val", "loader", 300.0, True, place="photos.py:41 in __getitem__"),
        "val: no batch for 300 s: the program waits for a batch; the program is in it at photos.py:41 in __getitem__",
    ),
    "stalled in the step": (
        events.Stalled(NOON, "train", "program", 300.0, True, 4, 0, 16, 0, place="train.py:88 in step"),
        (
            "train: the training step has held its thread for 300 s at train.py:88 in step; 4 batches are ready, the "
            "loader does not hold it up"
        ),
    ),
    "stalled between epochs": (
        events.Stalled(NOON, "train", "program", 300.0, False, place="train.py:102 in validate"),
        (
            "train: no batch has been asked for in 300 s, and no epoch is under way; the program is at train.py:102 in "
            "validate"
        ),
    ),
    "all ranks": (
        events.RanksStalled(
            NOON, "train", "rank 3 waits for batch 12 of train; rank 0 waits in the step", [3], "waits"
        ),
        "train: rank 3 waits for batch 12 of train; rank 0 waits in the step",
    ),
    "goes on": (events.StallEnded(NOON, "train", 412.0), "train: goes on, after standing still for 412 s"),
    "started": (
        events.Started(NOON, "train", 4711, [0, 1], 1.94),
        "train: process 4711 is ready after 1.9 s, for workers 0, 1",
    ),
    "restarted": (
        events.Restarted(NOON, "train", 4712, [1], 1.94),
        "train: new process 4712 is ready after 1.9 s, for worker 1",
    ),
    "resumed, and that is exact": (
        events.Resumed(NOON, "train", 0, 2.13, exact=True),
        "train: batches come again; fault 1 cost 2.1 s; no batch is lost",
    ),
    "resumed": (
        events.Resumed(NOON, "train", 0, 2.13),
        "train: batches come again; fault 1 cost 2.1 s",
    ),
    "epoch": (events.EpochEnded(NOON, "train", 3, 18500), "train: epoch 3 ended after 18,500 batches"),
    "closed": (
        events.Closed(NOON, "train", 18500, 1, 2, 731.0),
        "train: closed after 18,500 batches in 1 epoch, with 2 faults, 12 min lost",
    ),
}


@pytest.mark.parametrize(("event", "line"), LINES.values(), ids=LINES)
def test_a_happening_is_told_in_this_line(event: events.Happening, line: str) -> None:
    assert line_for(event) == line


def test_every_kind_of_happening_and_of_fault_has_an_example_above() -> None:
    shown = [event for event, _ in LINES.values()]
    kinds = [getattr(events, name) for name in events.__all__ if name not in ("CAUSES", "Happening")]
    assert {type(event) for event in shown} == set(kinds)
    assert {event.cause for event in shown if isinstance(event, Fault)} == set(events.CAUSES)


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("sample", ["a\nb", ("x", 3), "y" * 10_000, Unprintable()])
def test_a_line_is_one_line_of_bounded_length_whatever_the_sample_is(sample: object) -> None:
    event = fault(sample=sample, loader="two\nlines", detail="d\n" * 5000, stack="no\nstack", action="a\nb")
    for told in (
        event,
        dataclasses.replace(event, cause="bad_sample"),
        dataclasses.replace(event, cause="raised"),
    ):
        line = line_for(told)
        assert "\n" not in line
        assert len(line) < 1000


def test_what_costs_time_is_a_warning_what_ends_the_run_an_error_and_the_rest_is_quiet() -> None:
    levels = {name: logging.getLevelName(level_for(event)) for name, (event, _) in LINES.items()}
    assert {name for name, level in levels.items() if level == "ERROR"} == {
        "raised", "unpicklable", "bad sample raised", "reads something else", "killed, the last attempt",
        "killed, and the loader ends",
    }  # fmt: skip
    assert {name for name, level in levels.items() if level == "INFO"} == {
        "restarted", "resumed", "resumed, and that is exact", "resized", "closed", "unshadowed", "reopened", "came again the same", "came again the same, as far as can be told",
        "came again the same after its own state",
    }  # fmt: skip
    assert {name for name, level in levels.items() if level == "DEBUG"} == {"started", "epoch"}


# ---------------------------------------------------------------- words


def test_durations_and_plurals_read_naturally() -> None:
    assert [duration(s) for s in (0, 2.13, 42, 599, 840, 29_160)] == [
        "0.0 s", "2.1 s", "42 s", "599 s", "14 min", "8.1 h",
    ]  # fmt: skip
    assert [many(1, "batch"), many(2, "batch"), many(0, "process"), many(1800, "fault")] == [
        "1 batch", "2 batches", "0 processes", "1,800 faults",
    ]  # fmt: skip
    assert inline("a \n b", 10) == "a b"
    assert inline("abcdefghijkl", 10) == "abcdefg..."


@pytest.mark.parametrize("stack", [TRACEBACK, FAULTHANDLER])
def test_a_stack_tells_where_it_stands_whichever_way_it_is_printed(stack: str) -> None:
    assert stack_place(stack).startswith("data/photos.py:41 in ")


def test_no_place_is_made_up_where_there_is_none() -> None:
    nowhere = (None, "", "no frames", "Thread 0x1 (most recent call first):\n")
    assert [stack_place(text) for text in nowhere] == [""] * 4


def test_a_real_traceback_and_a_real_faulthandler_dump_are_understood() -> None:
    code = (
        "import faulthandler, traceback, threading, sys\n"
        "def deep(): {act}\n"
        "hold = threading.Event()\n"
        "thread = threading.Thread(target=hold.wait); thread.start()\n"
        "deep(); hold.set(); thread.join()\n"
    )
    for act in ("faulthandler.dump_traceback(sys.stdout)", "print(''.join(traceback.format_stack()))"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(act=act)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert stack_place(done.stdout) == "<string>:2 in deep"


def test_a_long_stack_keeps_the_calls_next_to_where_it_stands() -> None:
    rows = [f'  File "x.py", line {n}, in f{n}' for n in range(100)]
    kept = stack_lines("\n".join(rows), 5)
    assert kept == ["... (95 outer lines)", *rows[-5:]]
    dump = "Current thread 0x1 (most recent call first):\n" + "\n".join(rows).replace(", in", " in")
    kept = stack_lines(dump, 5)
    assert kept[1] == '  File "x.py", line 0 in f0'
    assert kept[-1] == "... (96 outer lines)"
