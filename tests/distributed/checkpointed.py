"""One rank of a program that keeps its loader's state with ``torch.distributed.checkpoint``.

    python checkpointed.py FOLDER RANK WORLD STYLE save|load

STYLE is how the program holds the loader: "loader" itself, "app" (a Stateful that has it among others), or "titan" (a
subclass that keeps a pickle for each rank, as torchtitan does). Writes what it got before and after.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.stateful import Stateful

from safeloader import DataLoader
from safeloader.distributed import ElasticDistributedSampler

SAMPLES = 48


class App(Stateful):
    def __init__(self, loader: Any) -> None:
        self.loader, self.step = loader, torch.tensor(0)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "train": self.loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        self.loader.load_state_dict(state_dict["train"])


class Titan(DataLoader[Any]):
    rank, world = 0, 1

    def state_dict(self) -> dict[str, Any]:
        return {f"dp_rank_{self.rank}": pickle.dumps(super().state_dict()), "world_size": self.world}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict["world_size"] == self.world
        super().load_state_dict(pickle.loads(state_dict[f"dp_rank_{self.rank}"]))


def main() -> None:
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    style, deed = sys.argv[4:6]
    if world > 1:
        store = dist.FileStore(str(folder / f"store-{deed}-{world}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(rank)
    sampler = ElasticDistributedSampler(range(SAMPLES), world, rank, batch_size=2)
    Titan.rank, Titan.world = rank, world
    loader = (Titan if style == "titan" else DataLoader)(torch.arange(SAMPLES), batch_sampler=sampler, name="train")
    app = App(loader)
    told: dict[str, Any] = {"train": app if style == "app" else loader, "other": torch.arange(3)}
    if deed == "save":
        batches = iter(loader)
        before = [next(batches).tolist() for _ in range(3)]
        app.step = torch.tensor(3)
        dcp.save(told, checkpoint_id=folder / "saved")
        # Later, when the state looks otherwise, it is loaded into the same loader, too.
        rest = [batch.tolist() for batch in batches]
        dcp.load(told, checkpoint_id=folder / "saved")
        again = [batch.tolist() for batch in loader]
        (folder / f"saved-{rank}.json").write_text(json.dumps([before, rest, again]))
    else:
        dcp.load(told, checkpoint_id=folder / "saved")
        rest = [batch.tolist() for batch in loader]
        (folder / f"loaded-{rank}.json").write_text(json.dumps([rest, int(app.step)]))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
