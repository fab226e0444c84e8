"""A training script that is read from standard input, as a stand-in for a notebook (catalogue C3).

torch: the worker cannot find the dataset's class in its own main module; the trainer is told only that
workers "exited unexpectedly".
"""

from __future__ import annotations

from benchmarks.hangs.scenario import Scenario

SCRIPT = """
from benchmarks.hangs.data import Samples, sample
from benchmarks.hangs.program import program


class Mine(Samples):
    def __getitem__(self, index):
        return sample(index)


def main(run):
    run.epoch(run.loader(Mine()))


if __name__ == "__main__":
    program(main)
"""
SCENARIO = Scenario(row="C3", title="script from stdin, as in a notebook", script=SCRIPT, stdin=True)
