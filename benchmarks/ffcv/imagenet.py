"""A recipe in the shape of ffcv-imagenet: the same program with bare FFCV and with safeloader's import, on two ranks.

::

    torchrun --nproc-per-node 2 -m benchmarks.ffcv.imagenet FOLDER --loader bare
    python -m benchmarks.ffcv.imagenet FOLDER --compare          # bare, safe, safe with kills: a table

One training loader; before each epoch ``decoder.output_size = (res, res)``, as ffcv-imagenet's ``get_resolution`` says.
Arguments, OneCycle, label smoothing and an average of the weights are there; the net is small.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.incidents.recipe import data
from benchmarks.incidents.recipe.train import network
from safeloader.training import Average, linear_scaling

if TYPE_CHECKING:
    from collections.abc import Iterable

_RESULT = "RESULT "


def arguments() -> argparse.Namespace:
    """As ffcv-imagenet's sections, in one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loader", choices=("bare", "safe"), default="safe")
    parser.add_argument("--compare", action="store_true", help="run all and print the table")
    parser.add_argument("--seed", type=int, default=0, help="of order, weights and augmentation")
    parser.add_argument("--seeds", type=int, default=3, help="with --compare: how many")
    parser.add_argument("--kill", type=int, action="append", default=[], help="epoch in which FFCV's process is killed")
    for name, default in (("epochs", 6), ("batch-size", 16), ("min-res", 32), ("max-res", 64), ("start-ramp", 1),
                          ("end-ramp", 4), ("val-res", 64), ("warm-up", 1)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, rate in (("lr", 3.2), ("momentum", 0.9), ("weight-decay", 5e-4), ("label-smoothing", 0.1), ("ema", 0.9)):
        parser.add_argument(f"--{name}", type=float, default=rate)
    return parser.parse_args()


def get_resolution(epoch: int, asked: argparse.Namespace) -> int:
    """ffcv-imagenet's."""
    if epoch <= asked.start_ramp:
        return int(asked.min_res)
    if epoch >= asked.end_ramp:
        return int(asked.max_res)
    interp = np.interp([epoch], [asked.start_ramp, asked.end_ramp], [asked.min_res, asked.max_res])
    return int(np.round(interp[0] / 32)) * 32


class Trainer:
    """One rank's run."""

    def __init__(self, asked: argparse.Namespace) -> None:
        if asked.loader == "bare":
            from ffcv.loader import Loader, OrderOption
        else:
            from ffcv.loader import OrderOption

            from safeloader.ffcv import Loader
        self.asked = asked
        train, val = data.prepare(asked.folder)
        pipelines = data.training(asked.min_res)
        self.decoder = pipelines["image"][0]
        self.train_loader = Loader(
            str(train), batch_size=asked.batch_size, num_workers=1, order=OrderOption.RANDOM, os_cache=True,
            drop_last=True, pipelines=pipelines, distributed=True, seed=asked.seed,
        )  # fmt: skip
        self.val_loader = Loader(
            str(val), batch_size=asked.batch_size, num_workers=1, order=OrderOption.SEQUENTIAL, os_cache=True,
            drop_last=False, pipelines=data.validation(asked.val_res), distributed=True, seed=0,
        )  # fmt: skip
        torch.manual_seed(asked.seed)
        self.model = DistributedDataParallel(network(data.CLASSES))
        self.average = Average(self.model.module, asked.ema)
        self.loss = nn.CrossEntropyLoss(label_smoothing=asked.label_smoothing)
        peak = linear_scaling(asked.lr, asked.batch_size * dist.get_world_size())
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), peak, momentum=asked.momentum, weight_decay=asked.weight_decay
        )
        steps = asked.epochs * len(self.train_loader)
        warm_up = asked.warm_up / asked.epochs
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, peak, steps, pct_start=warm_up)
        self.sizes: list[int] = []
        self.order, self.pixels = hashlib.sha256(), hashlib.sha256()

    def train(self) -> dict[str, Any]:
        """All epochs; what is compared."""
        right = 0.0
        for epoch in range(self.asked.epochs):
            res = get_resolution(epoch, self.asked)
            self.decoder.output_size = (res, res)
            self.train_epoch(epoch, self.train_loader)
            right = self.validate()
        told = {
            "sizes": self.sizes,
            "order": self.order.hexdigest()[:16],
            "accuracy": right,
            "faults": 0,
            "way": "FFCV",
        }
        if self.asked.loader == "safe":
            reports = [loader.report() for loader in (self.train_loader, self.val_loader)]
            told |= {"faults": sum(len(report.faults) for report in reports), "way": reports[0].way}
            told["pixels"] = self.pixels.hexdigest()[:16]
        return told

    def train_epoch(self, epoch: int, batches: Iterable[Any]) -> None:
        """One pass."""
        self.model.train()  # type: ignore[no-untyped-call, unused-ignore]
        for number, (images, labels) in enumerate(batches):
            if number == 0:
                self.sizes.append(images.shape[-1])
            if number == 5 and epoch in self.asked.kill:
                _kill()
            self.order.update(labels.numpy().tobytes())
            self.pixels.update(images.numpy().tobytes())
            self.optimizer.zero_grad()
            self.loss(self.model(images), labels).backward()
            self.optimizer.step()
            self.scheduler.step()
            self.average.update_parameters(self.model.module)

    @torch.no_grad()
    def validate(self) -> float:
        """Share of right answers of the average, over all ranks."""
        self.average.settle()
        self.average.eval()
        counts = torch.zeros(2)
        for images, labels in self.val_loader:
            counts += torch.tensor([float((self.average(images).argmax(1) == labels).sum()), float(len(labels))])
        dist.all_reduce(counts)
        return float(counts[0] / counts[1])


def _kill() -> None:
    """The largest of this rank's processes that load, as the OOM killer would."""
    children = [one for one in psutil.Process().children(recursive=True) if "safeloader" in " ".join(one.cmdline())]
    max(children, key=lambda one: one.memory_info().rss).kill()


def main() -> None:
    """One rank, or the comparison."""
    asked = arguments()
    if asked.compare:
        raise SystemExit(not compare(asked.folder, asked.seeds))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if dist.get_rank() == 0:
        data.prepare(asked.folder)
    dist.barrier()
    told = Trainer(asked).train()
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, told)
    if dist.get_rank() == 0:
        print(_RESULT + json.dumps(gathered), flush=True)
    sys.stdout.flush()
    os._exit(0)  # threads of gloo and of bare FFCV abort a normal exit now and then


def run(folder: Path, *options: str) -> list[dict[str, Any]]:
    """What each rank tells of a run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*command, "benchmarks.ffcv.imagenet", str(folder), *options], capture_output=True, text=True, check=False,
        cwd=Path(__file__).resolve().parents[2], timeout=900,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
    if not lines:
        raise RuntimeError(f"the run told nothing:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    told: list[dict[str, Any]] = json.loads(lines[-1][len(_RESULT) :])
    return told


def compare(folder: Path, seeds: int) -> bool:
    """Bare, safe, and safe with kills, for each seed: sizes and order are equal, and accuracy within noise.

    FFCV seeds no augmentation, so that a bare run differs from the next one: the first seed is run twice.
    """
    print(
        "| seed | run | sizes | order, by rank | pixels, by rank | accuracy | faults | in the end |",
        "|" + "---|" * 8,
        sep="\n",
    )
    same, apart, noise = True, [], 0.0
    for seed in range(seeds):
        runs = {
            "bare FFCV": ("--loader", "bare"),
            "safeloader": (),
            "safeloader, killed": ("--kill", "1", "--kill", "4"),
        }
        if seed == 0:
            runs = {"bare FFCV, again": ("--loader", "bare"), **runs}
        told = {}
        for name, options in runs.items():
            told[name] = ranks = run(folder, "--seed", str(seed), *options)
            orders, faults = ", ".join(rank["order"] for rank in ranks), sum(rank["faults"] for rank in ranks)
            accuracy = ranks[0]["accuracy"]
            pixels = ", ".join(rank.get("pixels", "-") for rank in ranks)
            print(f"| {seed} | {name} | {ranks[0]['sizes']} | {orders} | {pixels} | {accuracy:.3f} | {faults} | "
                  f"{ranks[0]['way']} |", flush=True)  # fmt: skip
        stories = [[(rank["sizes"], rank["order"]) for rank in ranks] for ranks in told.values()]
        right = {name: ranks[0]["accuracy"] for name, ranks in told.items()}
        same &= all(story == stories[0] for story in stories) and right["safeloader"] == right["safeloader, killed"]
        same &= (
            len({tuple(rank["pixels"] for rank in told[name]) for name in ("safeloader", "safeloader, killed")}) == 1
        )
        apart.append(right["safeloader"] - right["bare FFCV"])
        noise = abs(right.get("bare FFCV, again", right["bare FFCV"]) - right["bare FFCV"]) or noise
    mean = sum(apart) / len(apart)
    print(f"\nsafeloader less bare, by seed: {', '.join(f'{one:+.3f}' for one in apart)}, mean {mean:+.3f}; "
          f"bare twice with one seed: {noise:.3f} apart")  # fmt: skip
    return same and abs(mean) < 0.12


if __name__ == "__main__":
    main()
