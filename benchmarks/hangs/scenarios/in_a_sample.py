"""Sixteen scenarios that differ in what one sample does: a worker dies, hangs, raises or is slow in it.

Each has a line that says what torch does with it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import DEADLINE, Run, program
from benchmarks.hangs.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable


class InASample(NamedTuple):
    """One scenario.

    Attributes:
        scenario: What is expected of it.
        deed: What the sample does.
        always: Each time that it is loaded, instead of once.
        deadline: Seconds, for loaders that know one.
    """

    scenario: Scenario
    deed: Callable[[], object]
    always: bool = False
    deadline: float = DEADLINE


def raise_interrupt() -> NoReturn:
    raise KeyboardInterrupt


def raise_value_error() -> NoReturn:
    raise ValueError(f"broken picture {FAULT_AT}")


def raise_stop_iteration() -> None:
    next(iter([]))


def raise_unpicklable() -> NoReturn:
    class DecoderError(Exception):
        """Local to this function, so that pickle cannot find it."""

    raise DecoderError("broken header")


ALL = {
    # torch: an error at once; batches that were ready are lost with their worker
    "sigkill": InASample(Scenario("D1", "killed (SIGKILL)", quick=True, longest=1.0), faults.die),
    # torch: an error at once
    "segfault": InASample(Scenario("D1", "segmentation fault", longest=1.0), faults.segfault),
    # torch: an error that does not name the sample
    "always_kills": InASample(
        Scenario("D1", "a sample always kills its process", expect=("error",), says=r"\b18\b", patience=4.0),
        faults.die, always=True,
    ),
    # torch: the error comes, but its destructor then waits for the lock of the dead process: a hang
    "killed_with_locks": InASample(
        Scenario("D2", "killed while it holds shared locks", longest=1.0), faults.die_holding_locks
    ),
    # torch: hangs; with ``timeout`` an error, after which the interpreter's exit hangs
    "stopped": InASample(Scenario("F1", "stopped (SIGSTOP)", quick=True, longest=8.0), faults.stop),
    # torch: hangs; with ``timeout`` an error
    "endless_sample": InASample(Scenario("F1", "a sample never ends", longest=8.0), faults.sleep_forever),
    # torch: hangs; with ``timeout`` an error
    "gil_held": InASample(Scenario("F1", "a C call holds the GIL for ever", longest=8.0), faults.hold_the_gil),
    # torch: hangs; with ``timeout`` an error that does not name the sample
    "always_hangs": InASample(
        Scenario("F1", "a sample always hangs", expect=("error",), says=r"\b18\b", patience=4.0),
        faults.sleep_forever, always=True, deadline=1.0,
    ),
    # torch: finishes; the trainer waits for the slow batch while the other workers run out of work
    "straggler": InASample(
        Scenario("F5", "one slow sample, within the deadline", longest=5.0),
        partial(time.sleep, 4), always=True, deadline=20.0,
    ),
    # torch: without ``timeout`` finishes; with it, the run is lost to a false alarm
    "false_alarm": InASample(
        Scenario("J1", "one slow sample, beyond the deadline"), partial(time.sleep, 6), always=True, deadline=4.0
    ),
    # torch: an error, after a poll of 5 s; with ``timeout`` only after the whole timeout
    "exit_0": InASample(Scenario("0.5", "exits with code 0", longest=1.0), partial(os._exit, 0)),
    # torch: an error that does not tell the cause
    "sys_exit": InASample(Scenario("A7", "sys.exit(3) in a sample", longest=1.0), partial(sys.exit, 3)),
    # torch: ``EOFError`` with an empty message, or another accident
    "keyboard_interrupt": InASample(
        Scenario("A7", "KeyboardInterrupt in a sample", expect=("finished", "error")), raise_interrupt
    ),
    # torch: the epoch ends early, as if all were well
    "stop_iteration": InASample(
        Scenario("A8", "StopIteration out of a sample", expect=("error",), says=r"StopIteration.*|18", quick=True),
        raise_stop_iteration,
    ),
    # control. torch: the error, with the worker's stack
    "sample_raises": InASample(
        Scenario("-", "a sample raises ValueError", expect=("error",), says=r"broken picture 18"), raise_value_error
    ),
    # torch: the exception is dropped in the worker's feeder thread, and the trainer waits for it for ever
    "unpicklable_exception": InASample(
        Scenario("A2", "an exception cannot be pickled", expect=("error",), says="broken header"),
        raise_unpicklable, always=True,
    ),
}  # fmt: skip
SCENARIOS = {name: one.scenario for name, one in ALL.items()}


class Faulty(Samples):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires(always=ALL[self.name].always):
            ALL[self.name].deed()


def train(run: Run, name: str) -> None:
    run.epoch(run.loader(Faulty(name), deadline=ALL[name].deadline))


if __name__ == "__main__":
    program(partial(train, name=sys.argv[1]))
