"""The same recipe with one mistake each, as the runs of the incident had them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from benchmarks.incidents.recipe import data
from benchmarks.incidents.recipe.plan import square_root
from benchmarks.incidents.recipe.train import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MISTAKES"]


class SquareRootScaling(Recipe):
    """The rate is the root's, four times too high."""

    def peak_rate(self) -> float:
        return square_root(self.plan.base_rate, self.plan.batch * dist.get_world_size())


class AutoResume(Recipe):
    """Whatever lies newest in the folder is gone on from."""

    def go_on(self) -> int:
        newest = max((self.folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        saved = torch.load(newest, weights_only=True)
        self.model.module.load_state_dict(saved["parts"]["model"])
        for name in ("optimizer", "scheduler", "average"):
            self.parts[name].load_state_dict(saved["parts"][name])
        self.story.resumed = f"resumed from {newest.name}"
        return int(saved["extra"]["epoch"])


class ScheduleFirst(Recipe):
    """The schedule steps before the optimizer, so that its first rate is never used."""

    def step(self) -> None:
        self.scheduler.step()
        self.optimizer.step()


class RebuiltLoaders(Recipe):
    """FFCV's own loader, made anew where a size begins: at epoch 0 too, where it was made a moment before."""

    def training_loader(self) -> Any:
        return self._build(self.plan.sizes[0][1])

    def _build(self, size: int) -> Any:
        from ffcv.loader import Loader, OrderOption

        self.story.built += 1
        return Loader(
            str(self.files[0]), self.plan.batch, num_workers=1, order=OrderOption.RANDOM, distributed=True,
            seed=self.plan.seed, drop_last=True, pipelines=data.training(size),
        )  # fmt: skip

    def batches(self, epoch: int) -> Iterable[Any]:
        sizes = dict(self.plan.sizes)
        if epoch in sizes:
            self.train = self._build(sizes[epoch])
        return self.train  # type: ignore[no-any-return]

    def close(self) -> None:
        self.val.close()


class FirstRankAverages(Recipe):
    """Rank 0 alone averages, and parameters alone: the running statistics stay as they were at the beginning."""

    @torch.no_grad()
    def update_average(self) -> None:
        if dist.get_rank() == 0:
            for mine, theirs in zip(self.average.module.parameters(), self.model.module.parameters(), strict=True):
                mine.lerp_(theirs, 1 - self.plan.decay)

    def settle_average(self) -> None:
        pass


MISTAKES: dict[str, type[Recipe]] = {
    "scaling": SquareRootScaling,
    "auto-resume": AutoResume,
    "schedule": ScheduleFirst,
    "rebuild": RebuiltLoaders,
    "average": FirstRankAverages,
}
"""By name, in an order in which the second finds the checkpoints of the first."""
