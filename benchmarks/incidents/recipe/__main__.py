"""One rank: ``torchrun --nproc-per-node 2 -m benchmarks.incidents.recipe FOLDER [--mistake NAME ...]``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.incidents.recipe.broken import MISTAKES
from benchmarks.incidents.recipe.plan import Plan
from benchmarks.incidents.recipe.train import Recipe, Story
from benchmarks.incidents.watching import tell


def main() -> None:
    """Train with each mistake in turn, or as it should be. Rank 0 tells the story of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", default="photographs", help="the run's name")
    parser.add_argument("--mistake", choices=MISTAKES, action="append", default=[])
    parser.add_argument("--epochs", type=int, default=Plan.epochs)
    parser.add_argument("--die-in", type=int, help="rank 1 is killed in the middle of this epoch")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    quiet = logging.WARNING if dist.get_rank() == 0 else logging.CRITICAL
    logging.basicConfig(level=quiet, format="%(message)s")
    logging.getLogger("recipe").setLevel(logging.INFO)
    plan = Plan(run=asked.run, epochs=asked.epochs)
    if not asked.mistake:
        _tell("mended", _dying(asked.die_in)(asked.folder, plan))
    for name in asked.mistake:
        _tell(name, MISTAKES[name](asked.folder, replace(plan, run=name)))
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


def _tell(name: str, recipe: Recipe) -> None:
    logging.getLogger("recipe").info("%s: peak rate %g", name, recipe.peak_rate())
    story: Story = recipe.fit()
    dist.barrier()
    if dist.get_rank() == 0:
        tell(**{name: {**asdict(story), "rates": [story.rates[0] if story.rates else None, recipe.peak_rate()]}})


def _dying(epoch: int | None) -> type[Recipe]:
    class Dying(Recipe):
        def step(self) -> None:
            super().step()
            steps = len(self.train)
            if epoch is not None and dist.get_rank() == 1 and self.scheduler.last_epoch == (epoch + 0.5) * steps:
                os.kill(os.getpid(), signal.SIGKILL)

    return Dying


if __name__ == "__main__":
    main()
