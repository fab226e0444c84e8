"""A cleaner empties TMPDIR in the middle of an epoch (catalogue A4, sibling).

torch: ``FileNotFoundError`` at the next batch: the socket of the worker's descriptor server is gone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.hangs import rooms
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="A4", title="TMPDIR is emptied mid-epoch", room=rooms.own_tmpdir)


def train(run: Run) -> None:
    for number, batch in enumerate(run.loader(Samples())):
        run.batch(batch)
        if number == 0 and run.fault():
            for path in Path(os.environ["TMPDIR"]).iterdir():
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True) if path.exists() else None


if __name__ == "__main__":
    program(train)
