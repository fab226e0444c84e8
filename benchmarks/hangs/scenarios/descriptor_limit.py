"""128 open files are allowed, and the training loop keeps its batches (catalogue E2).

torch: an error, "Too many open files": each kept tensor keeps a descriptor.
"""

from __future__ import annotations

import resource
from typing import Any

from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="E2", title="128 open files, batches are kept", batches=300, reference="own", quick=True)


def train(run: Run) -> None:
    if not run.quiet:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    kept: list[Any] = []
    run.epoch(run.loader(Samples(300), batch_size=1), keep=kept if not run.quiet else None)


if __name__ == "__main__":
    program(train)
