"""Two ranks of Ray Train, each on a node of its own: a sample of rank 1 does not come until rank 0 has said so."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.cluster_utils import Cluster
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from safeloader import DataLoader, Policy

_STALLS = 13


class Stalls(torch.utils.data.Dataset[torch.Tensor]):
    """One sample of which waits for a file.

    Args:
        until: the file; None: no sample waits.
    """

    def __init__(self, until: Path | None) -> None:
        self._until = until

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> torch.Tensor:
        while index == _STALLS and self._until is not None and not self._until.exists():
            time.sleep(0.02)
        return torch.tensor([float(index)])


class Told(logging.Handler):
    """Writes what the board says to a file, which is there only when it is whole."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        if f"has worked on sample {_STALLS} for" in record.getMessage() and "rank 1" in record.getMessage():
            part = self._file.with_suffix(".part")
            part.write_text(record.getMessage())
            part.rename(self._file)


def train(config: dict[str, str]) -> None:
    """All ranks meet after each batch."""
    folder, rank = Path(config["folder"]), ray.train.get_context().get_world_rank()
    (folder / f"{rank}.json").write_text(json.dumps(ray.get_runtime_context().get_node_id()))
    logging.getLogger("safeloader").addHandler(Told(folder / f"{rank}.told"))
    policy = Policy(batch_timeout=200)
    data = Stalls(folder / "0.told" if rank == 1 else None)
    for batch in DataLoader(data, 4, num_workers=1, policy=policy, name="train"):
        dist.all_reduce(batch.sum().reshape(1))


if __name__ == "__main__":
    soon = {"SAFELOADER_STALL_REPORT": "2", "SAFELOADER_BOARD_INTERVAL": "0.2"}
    os.environ.update(soon)
    small = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **small})
    for _ in range(2):
        cluster.add_node(num_cpus=2, **small)
    ray.init(address=cluster.address, runtime_env={"env_vars": soon})
    TorchTrainer(
        train,
        train_loop_config={"folder": sys.argv[1]},
        scaling_config=ScalingConfig(
            num_workers=2, resources_per_worker={"CPU": 2}, placement_strategy="STRICT_SPREAD"
        ),
        run_config=RunConfig(storage_path=f"{sys.argv[1]}/storage"),
    ).fit()
    ray.shutdown()
    cluster.shutdown()
