"""Training that goes on where it was, on as many ranks as are left.

    torchrun --nproc-per-node 4 --max-restarts 3 elastic.py checkpoints

Kill a rank: torchrun starts the group again, and the run goes on behind the newest good checkpoint, in the middle of
the epoch. Start it with 2 ranks instead of 4: the same, with the samples that were not seen yet.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy
from safeloader.distributed import ElasticDistributedSampler
from safeloader.training import CheckpointStore, resume

GLOBAL_BATCH = 8  # of all ranks together: the same steps, however many ranks there are


class Noisy(Dataset):
    """Sample i: its number, and three features with augmentation."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.full((3,), index / 96) + 0.01 * torch.randn(3)


def train(folder: Path, epochs: int, every: int, used: Callable[[int, int, list[int]], None] | None = None) -> None:
    """Train; ``used`` hears of each step: epoch, step, the samples of this rank."""
    batch = GLOBAL_BATCH // dist.get_world_size()
    sampler = ElasticDistributedSampler(Noisy(), seed=1, batch_size=batch, ends="even")
    loader = DataLoader(
        Noisy(), batch_sampler=sampler, num_workers=1, name="train",
        policy=Policy(sample_rng=True),  # augmentation that depends on the sample, not on who loads it
    )  # fmt: skip
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    store = CheckpointStore(folder, run="elastic", keep_last=2)
    parts = {"model": model, "optimizer": optimizer}

    resumed = resume(store, loader=loader, other_world_size=True, **parts)
    step = resumed.step
    for epoch in range(resumed.extra.get("epoch", 0), epochs):
        loader.set_epoch(epoch)  # the epoch that the loader was put back into goes on
        for indices, inputs in loader:
            loss = model(inputs).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if used is not None:
                used(epoch, step, indices.tolist())
            if step % every == 0:
                store.save(step, loader=loader, extra={"epoch": epoch}, **parts)
        store.save(step, loader=loader, extra={"epoch": epoch + 1}, **parts)
    loader.close()


def main() -> None:
    """As torchrun starts it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="where the checkpoints are; all ranks see it")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--every", type=int, default=5, help="steps from one checkpoint to the next")
    asked = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    print(f"rank {dist.get_rank()} of {dist.get_world_size()}, start {os.environ['TORCHELASTIC_RESTART_COUNT']}")
    train(asked.folder, asked.epochs, asked.every)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
