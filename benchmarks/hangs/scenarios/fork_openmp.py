"""OpenMP was used before fork, and is used again in the worker (catalogue B2).

torch: with fork, GNU's OpenMP waits for threads that were left in the parent: hangs.
"""

from __future__ import annotations

import torch

from benchmarks.hangs import facts
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="B2", title="fork after OpenMP was used")


class Multiplies(Samples):
    def before(self, index: int) -> None:
        if not facts.quiet():
            multiply()


def multiply() -> None:
    torch.set_num_threads(2)
    matrix = torch.ones(600, 600)
    (matrix @ matrix).sum().item()


def train(run: Run) -> None:
    multiply()
    run.fault()
    run.epoch(run.loader(Multiplies(), multiprocessing_context="fork"))


if __name__ == "__main__":
    program(train)
