"""A program for several ranks: DistributedDataParallel training, calm, and with faults in the loader of one rank.

    torchrun ... -m tests.distributed.disturbed_ranks PLAN ...

Each PLAN is one of safeloader.testing's, done on the last rank only. Rank 0 prints, as JSON, for each run the digest of
the weights of each rank and what the last rank's loader reports.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, DistributedSampler

from safeloader import DataLoader, Policy
from safeloader.testing import chaos
from safeloader.training.collectives import everyones

POLICY = Policy(start_method="forkserver", batch_timeout=3.0, recover_after=4, max_restarts=1, rank_check="raise")


class Augmented(Dataset[torch.Tensor]):
    """All three generators of a worker leave their mark."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = torch.rand(5) + random.random() + float(np.random.rand())
        return torch.full((5,), index / 96) + noise


def train() -> tuple[str, dict[str, Any]]:
    """The digest of the weights, and what happened to the loader."""
    torch.manual_seed(1 + dist.get_rank())
    random.seed(dist.get_rank())
    sampler: Any = DistributedSampler(Augmented(), seed=3)
    with DataLoader(Augmented(), 4, sampler=sampler, num_workers=2, policy=POLICY, name="train") as loader:
        model = DistributedDataParallel(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for epoch in range(2):
            loader.set_epoch(epoch)
            for inputs in loader:
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()
        report = loader.report()
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    told = {"causes": dict(report.causes), "fallbacks": report.fallbacks, "recoveries": report.recoveries}
    return hashlib.sha256(weights).hexdigest(), told


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    last = dist.get_rank() == dist.get_world_size() - 1
    said = {}
    for plan in ("", *sys.argv[1:]):
        with chaos(plan) if plan and last else contextlib.nullcontext() as faults:
            digest, report = train()
        assert faults is None or faults.all_done, faults.done()
        told = everyones([digest, report])
        said[plan] = {"weights": [own for own, _ in told], "reports": [report for _, report in told]}
    if dist.get_rank() == 0:
        print(json.dumps(said))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


if __name__ == "__main__":
    main()
