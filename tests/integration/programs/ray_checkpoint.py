"""Two ranks of Ray Train that stop in mid-epoch with a checkpoint, and one rank that goes on from it; then Ray Data."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.train
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_data_loader

import safeloader.ray
from safeloader import DataLoader, Policy
from safeloader.distributed import ElasticDistributedSampler
from tests.integration.killing import Killing

COUNT, BATCH, STOP_AFTER = 64, 4, 3


def train(config: dict[str, str]) -> None:
    folder, resumed = Path(config["folder"]), config.get("resumed")
    rank = ray.train.get_context().get_world_rank()
    private = folder / f"{rank}-{bool(resumed)}"
    private.mkdir()
    victim = int(next(iter(ElasticDistributedSampler(range(COUNT))))) if not resumed else None
    sampler = ElasticDistributedSampler(range(COUNT), batch_size=BATCH)
    policy = Policy(start_method="forkserver")
    loader = prepare_data_loader(
        DataLoader(Killing(private, victim, COUNT), batch_sampler=sampler, num_workers=1, policy=policy)
    )
    if resumed:
        loader.load_state_dict(json.loads((Path(resumed) / "loader.json").read_text()))
    rows = []
    for number, batch in enumerate(loader, 1):
        rows += batch[0][:, 0].floor().int().tolist()
        if number == STOP_AFTER and not resumed:
            break
    told = {"rows": rows, "causes": loader.report().causes}
    (private / "told.json").write_text(json.dumps(told))
    with tempfile.TemporaryDirectory() as place:  # the state is the same on all ranks
        (Path(place) / "loader.json").write_text(json.dumps(loader.state_dict()))
        ray.train.report({}, checkpoint=Checkpoint.from_directory(place) if rank == 0 else None)
    loader.close()


def fit(folder: str, ranks: int, **config: str) -> Any:
    return TorchTrainer(
        train,
        train_loop_config={"folder": folder, **config},
        scaling_config=ScalingConfig(num_workers=ranks),
        run_config=RunConfig(storage_path=f"{folder}/storage"),
    ).fit()


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    first = fit(sys.argv[1], 2)
    with first.checkpoint.as_directory() as place:
        fit(sys.argv[1], 1, resumed=str(place))
    prepared = ray.data.range(32)
    loader = DataLoader(safeloader.ray.from_dataset(prepared, batch_size=8), batch_size=None)
    epochs = [sorted(i for batch in loader for i in batch["id"].tolist()) for _ in range(2)]
    (Path(sys.argv[1]) / "data.json").write_text(json.dumps(epochs))
