"""One rank of a distributed run: prints what it got. Started by test_distributed.py, or by torchrun."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from safeloader import Policy
from safeloader.ffcv import Loader, ProgressiveResize
from safeloader.torch_private import default_store
from tests.ffcv import data


def main(path: str, case: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    seed = 5 + (rank if case == "seeds" else 0)
    late = [(0, 24), (1, 40 if rank == 0 or case != "sizes" else 32)]
    sizes = dict(late)
    told: dict[str, Any] = {"rank": rank}
    try:
        policy = Policy(ffcv_mode="trainer", startup_timeout=3.0 if case == "absent" else 200.0)
        if case == "absent" and rank == 1:
            default_store().wait(["told"], timedelta(seconds=200))
            raise SystemExit
        loader = Loader(
            path, 10, 1, order="RANDOM", distributed=True, seed=seed, pipelines=data.centered(), drop_last=False,
            resize=ProgressiveResize(late if case == "fine" else lambda epoch: sizes.get(epoch, 24)),
            policy=policy, name="train",
        )  # fmt: skip
        told["batches"] = len(loader)
        told["epochs"] = []
        for _ in range(2):
            told["epochs"].append([(data.labels_of([b]), b[0].shape[-1]) for b in loader])
            if case == "drift":
                sizes[1] -= 8 * rank
    except SystemExit:
        pass
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"
        if case == "absent":
            default_store().set("told", "")
    print(json.dumps(told), flush=True)
    default_store().set(f"rank {rank} is through", "")
    if rank == 0:  # the store lives here: the other one may have to read from it yet
        with contextlib.suppress(Exception):
            default_store().wait(["rank 1 is through"], timedelta(seconds=60))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
