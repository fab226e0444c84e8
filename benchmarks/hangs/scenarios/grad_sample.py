"""A sample is a tensor with a gradient history (catalogue A3).

torch: "Cowardly refusing to serialize non-leaf tensor", in the worker's feeder thread, and the trainer
waits for ever.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="A3",
    title="a sample carries a gradient",
    reference=None,
    expect=("error",),
    says=r"(?=.*gradient)(?=.*\b18\b)",
)


class Faulty(Samples):
    def __getitem__(self, index: int) -> torch.Tensor:
        if index == FAULT_AT and faults.fires(always=True):
            return torch.ones(8, dtype=torch.float64, requires_grad=True) * 2
        return torch.ones(8, dtype=torch.float64)


def as_list(samples: list[Any]) -> list[Any]:
    return samples


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty(), collate_fn=as_list))


if __name__ == "__main__":
    program(train)
