"""A program for two ranks: ``python -m torch.distributed.run --nproc-per-node 2 -m tests.training.two_ranks FOLDER``.

Rank 0 prints one line for each thing that all ranks agreed on.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from safeloader.training import CheckpointError, CheckpointStore, FiniteGuard, NonFiniteError, resume
from safeloader.training.collectives import everyones

NAN = float("nan")


class Loader:
    """Something with a state of its own on each rank."""

    def __init__(self, at: int = 0, broken: bool = False) -> None:
        self.at = at
        self.broken = broken

    def state_dict(self) -> dict[str, Any]:
        if self.broken:
            raise OSError("the index file is gone")
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def say(*what: Any) -> None:
    """Only if all ranks say the same."""
    said = everyones(what)
    assert all(one == said[0] for one in said), said
    if dist.get_rank() == 0:
        print(*what, flush=True)


def _model() -> DistributedDataParallel:
    torch.manual_seed(0)
    return DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)))


def _train(model: nn.Module, guard: FiniteGuard, optimizer: Any, bad_rank: int, bad_step: int) -> list[bool]:
    allowed = []
    for step in range(4):
        torch.manual_seed(10 * step + dist.get_rank())
        inputs = torch.randn(6, 4)
        if (dist.get_rank(), step) == (bad_rank, bad_step):
            inputs[3, 1] = NAN
        batch = guard.batch(inputs, number=step)
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        allowed.append(guard.allows_step(loss))
        if allowed[-1]:
            optimizer.step()
    return allowed


def guards() -> None:
    """One rank's bad batch: the same decision on both."""
    for bad_rank in (0, 1):
        model = _model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        guard = FiniteGuard(model, action="skip_step")
        say("skip", bad_rank, _train(model, guard, optimizer, bad_rank, 2), guard.skipped)
        weights = [p.detach().numpy().tobytes() for p in model.parameters()]
        say("the same weights", len(weights), hash(tuple(everyones(weights)[0])) == hash(tuple(weights)))
        say("finite", all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()))
    model = _model()
    try:
        _train(model, FiniteGuard(model), torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    except NonFiniteError as error:
        told = "batch 1 is not finite" in str(error)
        say("raise", told, error.where)
    model = _model()
    guard = FiniteGuard(model, wait_for_device=False)
    try:
        _train(model, guard, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    except NonFiniteError as error:
        say("raise one step later", "batch 1 is not finite" in str(error), error.where, guard.steps)
    only_here = _model()
    guard = FiniteGuard(only_here, action="skip_step")
    if dist.get_rank() == 1:
        with torch.no_grad():
            only_here.module[0].weight[0, 0] = NAN
    try:
        guard.allows_step()
    except NonFiniteError as error:
        say("weights of one rank end all", "0.weight" in str(error))
    parts = nn.Linear(4, 3)
    fully_shard(parts)
    guard = FiniteGuard(parts, action="skip_step")
    allowed = _train(parts, guard, torch.optim.SGD(parts.parameters(), lr=0.1), -1, 0)
    with torch.no_grad():
        parts.weight.to_local().fill_(NAN if dist.get_rank() == 1 else 1.0)
    try:
        guard.allows_step()
    except NonFiniteError as error:
        say("each rank looks at its part of a sharded model", allowed, "weight" in str(error))


def stores(folder: Path) -> None:
    """All ranks agree on the same checkpoint, or all raise."""
    rank, model = dist.get_rank(), _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    store = CheckpointStore(folder, run="two")
    for step in (1, 2):
        torch.manual_seed(100 * step + rank)
        saved = store.save(step, model=model, optimizer=optimizer, loader=Loader(at=10 * step + rank))
    say("saved", saved.step, saved.world_size, saved.id)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loader = Loader()
    say("resumed", resume(store, model=model, optimizer=optimizer, loader=loader).checkpoint == saved)
    say("own state", loader.at == 20 + rank, torch.equal(torch.rand(3), expected))
    dist.barrier()
    if rank == 0:
        saved.path.write_bytes(saved.path.read_bytes()[:-1])
    dist.barrier()
    resumed = resume(store, model=model, optimizer=optimizer, loader=loader)
    say("past the damaged", resumed.step, loader.at == 10 + rank, [passed.path.name for passed in resumed.passed_over])
    _refusals(folder, store, model)


def _refusals(folder: Path, store: CheckpointStore, model: nn.Module) -> None:
    rank = dist.get_rank()
    before = store.latest_good()
    for what in (
        lambda: store.save(3, model=model, loader=Loader(broken=rank == 1)),
        lambda: resume(store, model=model if rank == 0 else nn.Linear(1, 1)),
        lambda: store.save(3, model=model, extra={"f": print}),
    ):
        try:
            what()
        except (CheckpointError, OSError) as error:
            say("all refuse", type(error).__name__ != "")
        else:
            say("nobody refused")
    sharded = nn.Linear(4, 4)
    fully_shard(sharded)
    try:
        store.save(3, model=sharded)
    except CheckpointError as error:
        say("a sharded model is refused", "full_state_dict=True" in error.hint)
    _sharded(CheckpointStore(folder / "sharded", run="two"), sharded)
    say("the older one is untouched", store.latest_good() == before)
    elsewhere = CheckpointStore(folder / f"of rank {rank}", run="two")
    elsewhere.save(1, model=model)
    try:
        resume(elsewhere, model=model)
    except CheckpointError:
        say("a folder that only rank 0 sees is refused by all")


def _sharded(store: CheckpointStore, model: nn.Module) -> None:
    """As the refusal says: the whole state, got and put back by all ranks."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    before = model.weight.full_tensor().clone()
    store.save(1, extra={"model": get_model_state_dict(model, options=whole)})
    with torch.no_grad():
        model.weight.zero_()
    state = resume(store).extra["model"]
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))
    say("its whole state is saved and put back", torch.equal(model.weight.full_tensor(), before))


def main(folder: Path) -> None:
    """All of it."""
    torch.set_num_threads(1)
    logging.getLogger("safeloader").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    guards()
    stores(folder)
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))
