"""TMPDIR is too long for a socket's address, as a job's directory on many clusters (catalogue A4).

torch: the descriptor server cannot bind its socket, in the worker's feeder thread; the trainer waits for
ever.
"""

from __future__ import annotations

from benchmarks.hangs import rooms
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="A4", title="long TMPDIR", room=rooms.long_tmpdir)


def train(run: Run) -> None:
    run.epoch(run.loader(Samples()))


if __name__ == "__main__":
    program(train)
