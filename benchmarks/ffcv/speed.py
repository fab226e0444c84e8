"""Images a second: an epoch of each contender in turn, in one process, so that all meet the same weather."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.ffcv.data import Jpegs, Photographs, pipelines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

BATCH = 64


class Found(NamedTuple):
    """One contender: its best rate in images a second, and its ratio to bare FFCV in the same round."""

    name: str
    best: float
    ratio: float
    lowest: float
    highest: float


def contenders(path: Path, size: int, workers: int, stack: ExitStack) -> dict[str, Iterable[Any]]:
    """Name and loader of each; bare FFCV first."""
    import torch.utils.data
    from ffcv.loader import Loader as Bare
    from ffcv.loader import OrderOption

    from safeloader import DataLoader, Policy
    from safeloader.ffcv import Loader

    def wrapped(mode: Any, **more: Any) -> Any:
        return stack.enter_context(
            Loader(
                path,
                BATCH,
                workers,
                order="RANDOM",
                seed=1,
                pipelines=pipelines(size),
                drop_last=False,
                policy=Policy(ffcv_mode=mode, fallback="off"),
                name=mode,
                **more,
            )
        )

    jpegs = Jpegs(Photographs(), size)
    plain: dict[str, Any] = {
        "batch_size": BATCH, "shuffle": True, "num_workers": workers, "persistent_workers": True,
        "multiprocessing_context": "spawn",
    }  # fmt: skip
    return {
        "bare FFCV": Bare(
            str(path), BATCH, num_workers=workers, order=OrderOption.RANDOM, seed=1, pipelines=pipelines(size),
            drop_last=False,
        ),
        "wrapped, in the trainer": wrapped("trainer"),
        "wrapped, in the trainer, copy=False": wrapped("trainer", copy=False),
        "wrapped, in a process": wrapped("process"),
        "safeloader.DataLoader, Pillow": stack.enter_context(DataLoader(jpegs, **plain)),
        "torch DataLoader, Pillow": torch.utils.data.DataLoader(jpegs, **plain),
    }  # fmt: skip


def rate(loader: Iterable[Any]) -> float:
    """Images a second of one epoch, from the first batch asked for to the last."""
    begun = time.perf_counter()
    count = sum(len(batch[1]) for batch in loader)
    return count / (time.perf_counter() - begun)


def measure(path: Path, size: int, workers: int, rounds: int, say: Callable[[str], None]) -> list[Found]:
    """What each contender does."""
    with ExitStack() as stack:
        loaders = contenders(path, size, workers, stack)
        for name, loader in loaders.items():
            say(f"{size} px, {workers} workers: first epoch of {name}")
            rate(loader)
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for number in range(rounds):
            say(f"{size} px, {workers} workers: round {number + 1} of {rounds}")
            for name, loader in loaders.items():
                rates[name].append(rate(loader))
        return [_found(name, found, rates["bare FFCV"]) for name, found in rates.items()]


def _found(name: str, rates: list[float], bare: list[float]) -> Found:
    ratios = [ours / theirs for ours, theirs in zip(rates, bare, strict=True)]
    return Found(name, max(rates), statistics.median(ratios), min(ratios), max(ratios))
