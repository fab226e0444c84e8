"""A training script without ``if __name__ == "__main__"`` (catalogue C2).

torch: every spawned worker runs the script again and fails; the trainer is told only that workers "exited
unexpectedly".
"""

from __future__ import annotations

from benchmarks.hangs.scenario import Scenario

SCRIPT = """
import threading

from benchmarks.hangs.data import Samples, sample
from benchmarks.hangs.program import program

log = open(__file__)  # the main module also holds what nobody can pickle
lock = threading.Lock()


class Mine(Samples):
    def __getitem__(self, index):
        return sample(index)


def main(run):
    run.epoch(run.loader(Mine()))


program(main)
"""
SCENARIO = Scenario(row="C2", title="script without a main guard", script=SCRIPT, quick=True)
