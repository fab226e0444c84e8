"""A program for two ranks that iterate loaders differently. Rank 0 prints what each rank heard, as JSON.

The process group's store is served by a process of its own, which is frozen and killed at the end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler, IterableDataset

from safeloader import DataLoader, Policy, RanksDisagreeError, SettingsError
from safeloader.distributed import ElasticDistributedSampler, rank_check
from safeloader.distributed.store import group_store
from safeloader.testing import chaos
from safeloader.training.collectives import everyones
from tests.until import until

SERVER = """
import sys, time, torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""
heard: list[str] = []


class Listening(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        heard.append(f"log: {record.getMessage()}")


class Stream(IterableDataset[int]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


def loader(samples: int = 24, batch: int = 4, check: Any = None, **options: Any) -> DataLoader[Any]:
    sampler: Any = DistributedSampler(range(samples), **options)  # type: ignore[arg-type]
    return DataLoader(range(samples), batch, sampler=sampler, policy=Policy(rank_check=check))  # type: ignore[arg-type]


def in_turn(what: Callable[[], Any]) -> list[str]:
    """Rank 0, then rank 1: what each was told."""
    heard.clear()
    for turn in range(2):
        if dist.get_rank() == turn:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    what()
                except RanksDisagreeError as error:
                    heard.append(f"error: {error}")
            heard.extend(f"warning: {one.message}" for one in caught)
        dist.barrier()
    return list(heard)


def of_rank(zero: Any, one: Any) -> Any:
    return one if dist.get_rank() else zero


def only_rank_0() -> None:
    if dist.get_rank() == 0:
        assert len(list(loader())) == 3


def one_more_pass_on_rank_0() -> None:
    train = loader(shuffle=False)
    for epoch in range(3):
        for _ in range(2 if (dist.get_rank(), epoch) == (0, 1) else 1):
            train.set_epoch(epoch)
            assert len(list(train)) == 3


def half(resume: bool) -> None:
    def make() -> DataLoader[Any]:
        sampler = ElasticDistributedSampler(range(24), batch_size=2)
        return DataLoader(range(24), batch_sampler=sampler, name=f"half {resume}")  # type: ignore[arg-type]

    iterator = iter(first := make())
    next(iterator)
    second = make()
    if resume or dist.get_rank():
        second.load_state_dict(first.state_dict())
    list(second)


def streams(name: str) -> list[list[str]]:
    """Rank 0 ends after 5 samples; rank 1 stands after the 6th, waits for a partner, and ends after 7."""
    heard.clear()
    ended = DataLoader(Stream(of_rank(5, 7)), batch_size=None, name=name, policy=Policy(stall_report=0.3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        iterator = iter(ended)
        for _ in range(of_rank(5, 6)):
            next(iterator)
        if dist.get_rank() == 0:
            assert next(iterator, None) is None
        dist.barrier()
        if dist.get_rank():
            until(lambda: any("no partner" in line for line in heard))
        list(iterator)
    heard.extend(f"warning: {one.message}" for one in caught)
    return everyones([line for line in heard if "standing still" not in line])


def skipping() -> list[list[int]]:
    """Rank 1's bad sample is left out; the sizes of the batches of each rank."""
    sampler: Any = DistributedSampler(range(24), shuffle=False)  # type: ignore[arg-type]
    policy = Policy(on_bad_sample="skip", bad_sample_attempts=1)
    with chaos("kill:sample=7,times=always"):
        skips: DataLoader[Any] = DataLoader(torch.arange(24), 4, sampler=sampler, num_workers=1, policy=policy)  # type: ignore[arg-type]
        with skips:
            return everyones([len(batch) for batch in skips])


def patience(timeout: float | None, strict: bool = False) -> list[str]:
    """The process group's timeout is 200 s: what a loader with workers says to that."""
    logger, policy = logging.getLogger("safeloader"), Policy(batch_timeout=timeout, strict=strict, max_processes=0)
    logger.setLevel(logging.INFO)
    heard.clear()
    sampler: Any = DistributedSampler(range(24))  # type: ignore[arg-type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train: DataLoader[Any] = DataLoader(range(24), 4, sampler=sampler, num_workers=1, policy=policy, name="train")  # type: ignore[arg-type]
        try:
            for epoch in range(2):
                train.set_epoch(epoch)
                assert len(list(train)) == 3
        except SettingsError as error:
            heard.append(f"error: {error}")
    logger.setLevel(logging.WARNING)
    return [line for line in (*heard, *(f"warning: {one.message}" for one in caught)) if "timeout" in line]


def silent(server: int, end: int) -> list[Any]:
    """Rank 1's store does not answer any more: its epochs go on."""
    train = loader()
    store = group_store()
    assert store is not None
    heard.clear()
    rank_check._WITHIN, store.silence_told = 1.0, False
    lengths = []
    if dist.get_rank() == 1:
        os.kill(server, end)
        for epoch in range(3):
            train.set_epoch(epoch)
            lengths.append(len(list(train)))
        os.kill(server, signal.SIGCONT) if end == signal.SIGSTOP else None
    dist.barrier()
    rank_check._WITHIN = 60.0
    return everyones([lengths, [line for line in heard if "not compared" in line]])


def main() -> None:
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    rank_check._WITHIN = 60.0  # a busy machine is no silent store
    logging.getLogger("safeloader").addHandler(Listening())
    folder = sys.argv[1]
    server = None
    if rank == 0:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        with open(f"{folder}/port.new", "w") as file:
            file.write(f"{server.stdout.readline().strip()} {server.pid}")
        os.rename(f"{folder}/port.new", f"{folder}/port")
    until(lambda: os.path.exists(f"{folder}/port"))
    port, pid = map(int, Path(f"{folder}/port").read_text().split())
    dist.init_process_group(
        "gloo", store=dist.TCPStore("127.0.0.1", port), rank=rank, world_size=2, timeout=timedelta(seconds=200)
    )
    told = {
        "the same": lambda: [list(loader()) for _ in range(2)],
        "other lengths": lambda: list(loader(of_rank(24, 20))),
        "other seeds": lambda: list(loader(seed=of_rank(0, 1))),
        "other seeds, as a warning": lambda: list(loader(seed=of_rank(0, 1), check="warn")),
        "other seeds, unwatched": lambda: list(loader(seed=of_rank(0, 1), check="off")),
        "other batches": lambda: list(loader(batch=of_rank(4, 3))),
        "other batches, as an error": lambda: list(loader(batch=of_rank(4, 3), check="raise")),
        "only rank 0": only_rank_0,
        "one more pass on rank 0": one_more_pass_on_rank_0,
        "one of two resumes": lambda: half(False),
        "both resume": lambda: half(True),
    }
    said: dict[str, Any] = {name: everyones(in_turn(what)) for name, what in told.items()}  # type: ignore[arg-type]
    said["patience"] = [patience(None), patience(10.0), patience(60.0), patience(60.0, strict=True)]
    said["skipping"] = skipping()
    said["streams"] = streams("streams")
    said["frozen"] = silent(pid, signal.SIGSTOP)
    said["gone"] = silent(pid, signal.SIGKILL)
    if rank == 0:
        print(json.dumps(said))
        sys.stdout.flush()
        assert server is not None
        server.wait()
    os._exit(0)  # the group cannot be taken down without its store


if __name__ == "__main__":
    main()
