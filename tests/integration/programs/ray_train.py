"""A training function of Ray Train on two ranks: what it makes of loaders, written to a folder, a file a rank."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_data_loader  # by name, and before safeloader
from torch.utils.data import BatchSampler, SequentialSampler

import safeloader.ray
from safeloader import DataLoader, Policy
from safeloader.distributed import ElasticDistributedSampler
from tests.integration.killing import Killing

POLICY = Policy(max_restarts=7, start_method="forkserver")


def _facts(loader: Any) -> dict[str, Any]:
    inner = getattr(loader, "_dataloader", loader)
    rows = [sorted(batch[0][:, 0].floor().int().tolist()) for batch in loader]
    facts = {"class": type(inner).__name__, "name": inner.name, "policy": inner.policy == POLICY, "rows": rows}
    return {**facts, "sampler": type(loader.sampler).__name__, "causes": loader.report().causes}


def train(config: dict[str, str]) -> None:
    folder = Path(config["folder"])
    rank = ray.train.get_context().get_world_rank()
    (folder / str(rank)).mkdir()

    def loader(**arguments: Any) -> Any:
        return DataLoader(Killing(folder / str(rank), None), policy=POLICY, name="train", **arguments)

    whole = BatchSampler(SequentialSampler(range(32)), 4, drop_last=False)
    deals = ElasticDistributedSampler(range(32), batch_size=4)
    mine = Killing(folder / str(rank), int(next(iter(ElasticDistributedSampler(range(32))))))
    told = {
        "shuffled": _facts(prepare_data_loader(loader(batch_size=4, shuffle=True))),
        "ours": _facts(safeloader.ray.prepare_data_loader(loader(batch_size=4, shuffle=True))),
        "not moved": _facts(prepare_data_loader(loader(batch_size=4), move_to_device=False)),
        "batch_sampler": _facts(prepare_data_loader(loader(batch_sampler=whole))),
        "elastic": _facts(prepare_data_loader(loader(batch_size=4, sampler=ElasticDistributedSampler(range(32))))),
        "elastic batches": _facts(prepare_data_loader(loader(batch_sampler=deals))),
        "killed": _facts(
            prepare_data_loader(
                DataLoader(mine, 4, sampler=ElasticDistributedSampler(range(32)), num_workers=1, policy=POLICY)
            )
        ),
    }
    plain = torch.utils.data.DataLoader(Killing(folder, None), 4, shuffle=True)
    told["plain torch"] = {"rows": [sorted(b[0][:, 0].floor().int().tolist()) for b in prepare_data_loader(plain)]}
    try:
        prepare_data_loader(loader(batch_sampler=[[0, 1], [2, 3]]))
    except safeloader.SettingsError as error:
        told["own batch_sampler"] = {"error": error.what}
    first = prepare_data_loader(loader(batch_size=4, shuffle=True))
    batches = iter(first)
    next(batches)
    state, rest = first.state_dict(), [batch[0].tolist() for batch in batches]
    again = prepare_data_loader(loader(batch_size=4, shuffle=True))
    again.load_state_dict(state)
    told["state"] = {"same": rest == [batch[0].tolist() for batch in again], "left": len(rest)}
    (folder / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    TorchTrainer(
        train,
        train_loop_config={"folder": sys.argv[1]},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=tempfile.mkdtemp()),
    ).fit()
