"""The recipe: each choice is one method, so that its broken form can stand beside it (`broken`)."""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.incidents.recipe import data
from safeloader import Policy
from safeloader.ffcv import Loader, ProgressiveResize
from safeloader.training import (
    Average,
    CheckpointStore,
    FiniteGuard,
    MetricWatch,
    disagreement,
    fingerprint,
    linear_scaling,
    resume,
)
from safeloader.training.collectives import everyones, first_does

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.incidents.recipe.plan import Plan

__all__ = ["Recipe", "Story"]

_log = logging.getLogger("recipe")


@dataclass
class Story:
    """What a run did.

    Attributes:
        accuracy: Of the model, after each epoch.
        averaged: Of the averaged model, after each epoch.
        rates: Learning rate of each step of the optimizer.
        order: A print of the labels that this rank got, for each epoch.
        sizes: Pixels of the first batch of each epoch.
        built: Training loaders that were made.
        built_first: Of these, before the first batch.
        resumed: What was gone on from, in words.
        named: What a check said.
        weights: A print of the averaged model at the end.
    """

    accuracy: list[float] = field(default_factory=list)
    averaged: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    built: int = 0
    built_first: int = 0
    resumed: str = ""
    named: list[str] = field(default_factory=list)
    weights: str = ""


def network(classes: int) -> nn.Sequential:
    """Three strided convolutions with batch norm: takes images of any size."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Recipe:
    """A run on this rank; a process group is there.

    Args:
        folder: Files and checkpoints; all ranks see it.
        plan: The numbers.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan, self.folder, self.story = plan, folder, Story()
        self.files = first_does(lambda: data.prepare(folder))
        self.train, self.val = self.training_loader(), self.validation_loader()
        torch.manual_seed(plan.seed)
        self.model = DistributedDataParallel(network(data.CLASSES))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        self.scheduler = self.schedule(self.peak_rate())
        self.average = Average(self.model.module, plan.decay)
        self.guard = FiniteGuard(self.model, action="skip_step")
        self.watch = MetricWatch("accuracy of the average", mode="max")
        self.store = CheckpointStore(folder / "checkpoints", run=plan.run)
        self.parts: dict[str, Any] = {
            "model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "average": self.average,
            "watch": self.watch,
        }  # fmt: skip
        self.optimizer.register_step_pre_hook(lambda used, *_: self.story.rates.append(used.param_groups[0]["lr"]))

    # ------------------------------------------------------------ the choices

    def peak_rate(self) -> float:
        """Linear in the batch of all ranks."""
        return linear_scaling(self.plan.base_rate, self.plan.batch * dist.get_world_size())

    def schedule(self, peak: float) -> OneCycleLR:
        """Warm-up, then down: as many steps as the optimizer makes."""
        plan, steps = self.plan, self.plan.epochs * len(self.train)
        return OneCycleLR(self.optimizer, peak, total_steps=steps, pct_start=plan.warm_up / plan.epochs)

    def training_loader(self) -> Any:
        """One loader for all sizes: the size is a function of the epoch, set between epochs, the same on all ranks."""
        self.story.built += 1
        return Loader(
            self.files[0], self.plan.batch, order="RANDOM", pipelines=data.training(self.plan.sizes[0][1]),
            resize=ProgressiveResize(self.plan.sizes), **self._arguments("train"),
        )  # fmt: skip

    def validation_loader(self) -> Any:
        """Its file is looked through now: a damaged one ends the run before it has begun."""
        pipelines = data.validation(self.plan.validation_size)
        return Loader(self.files[1], 64, pipelines=pipelines, drop_last=False, **self._arguments("val"))

    def _arguments(self, name: str) -> dict[str, Any]:
        policy = Policy(ffcv_mode="trainer")  # a short run: no further processes
        return {"num_workers": 1, "distributed": True, "seed": self.plan.seed, "name": name, "policy": policy}

    def batches(self, epoch: int) -> Iterable[Any]:
        """The epoch's batches, at its size and in its order."""
        self.train.set_epoch(epoch)
        return self.train  # type: ignore[no-any-return]

    def step(self) -> None:
        """The optimizer first: its first step has the first rate of the schedule."""
        self.optimizer.step()
        self.scheduler.step()

    def update_average(self) -> None:
        """On every rank, at every step."""
        self.average.update_parameters(self.model.module)

    def settle_average(self) -> None:
        """Before it is used: its buffers, too, are the same on all ranks."""
        self.average.settle()

    def go_on(self) -> int:
        """The first epoch: that after the newest good checkpoint of this very run, if there is one."""
        resumed = resume(self.store, **self.parts)
        self.story.resumed = str(resumed)
        return resumed.step

    # ------------------------------------------------------------ the loop

    def fit(self) -> Story:
        """Train from where the run stands to its end."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            first = self.go_on()
            for epoch in range(first, self.plan.epochs):
                loss = self._pass(epoch)
                self.settle_average()
                self._judge(epoch, f"loss {loss:.3f}")
                self.store.save(epoch + 1, metric=self.story.averaged[-1], extra={"epoch": epoch + 1}, **self.parts)
            if first >= self.plan.epochs:
                self._judge(first, "nothing was left to train")
        self._name(*(str(one.message).splitlines()[0] for one in warned if "lr_scheduler" in str(one.message)))
        self._name(*_repeated(self.story.order))
        self.story.weights = fingerprint(self.average)
        self.close()
        return self.story

    def close(self) -> None:
        """End the loaders."""
        self.train.close()
        self.val.close()

    def _pass(self, epoch: int) -> float:
        self.model.train()  # type: ignore[no-untyped-call]
        seen = hashlib.blake2b(digest_size=6)
        losses: list[float] = []
        for images, labels in self.guard.batches(self.batches(epoch)):
            if not losses:
                self.story.sizes.append(images.shape[-1])
                self.story.built_first = self.story.built_first or self.story.built
            seen.update(labels.numpy().tobytes())
            losses.append(self._learn(images, labels))
        self.story.order.append(seen.hexdigest())
        return sum(losses) / len(losses)

    def _learn(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(images), labels, label_smoothing=0.1)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.guard.allows_step(loss):
            self.step()
            self.update_average()
        return float(loss.detach())

    def _judge(self, epoch: int, word: str) -> None:
        """Both models, each rank on its share; and whether all ranks hold the same average."""
        self._name(disagreement(self.average))
        self.story.accuracy.append(self._accuracy(self.model.module))
        self.story.averaged.append(self._accuracy(self.average))
        self._name(*map(str, self.watch.update(self.story.averaged[-1], epoch)))
        if dist.get_rank() == 0:
            right, averaged = self.story.accuracy[-1], self.story.averaged[-1]
            _log.info("epoch %d: %s, accuracy %.3f, of the average %.3f", epoch, word, right, averaged)

    def _name(self, *words: str) -> None:
        self.story.named += [word for word in words if word and word not in self.story.named]

    @torch.no_grad()
    def _accuracy(self, model: nn.Module) -> float:
        model.eval()
        right = seen = 0
        for images, labels in self.val:
            right += int((model(images).argmax(1) == labels).sum())
            seen += len(labels)
        told = everyones((right, seen))
        return sum(right for right, _ in told) / sum(seen for _, seen in told)


def _repeated(orders: list[str]) -> list[str]:
    """Epochs that had one order, in words."""
    same = {order: [epoch for epoch, other in enumerate(orders) if other == order] for order in orders}
    return [f"epochs {', '.join(map(str, epochs))} had the same order" for epochs in same.values() if len(epochs) > 1]
