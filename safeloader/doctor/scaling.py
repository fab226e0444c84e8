"""What N workers give, measured at a few N, and what follows from it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader import torch_private
from safeloader.config import Policy
from safeloader.errors import SafeLoaderError
from safeloader.loader import DataLoader
from safeloader.observe.format import duration, inline, many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.doctor.subject import Timing

__all__ = ["Rate", "Recommendation", "counts", "measure", "recommend"]

_ENOUGH = 0.9
"""A number of workers is enough from this share of the best rate on."""
_MOST = 16
_SURELY = 1.5
"""The trainer alone is faster where it is so many times as fast: its figure leaves out what a loader does around."""


class Rate(NamedTuple):
    """What so many workers gave.

    Attributes:
        workers: worker processes; 0: the trainer loads.
        rate: batches a second to a consumer that does nothing; None if none came in time.
        first: seconds from the beginning of the first epoch to its first batch.
        problem: what went wrong; "" if nothing did.
    """

    workers: int
    rate: float | None
    first: float | None
    problem: str = ""


class Recommendation(NamedTuple):
    """What to set, and why."""

    num_workers: int | None
    reason: str


def counts(usable: float, asked: int) -> list[int]:
    """The numbers of workers to try: 1, 2, 4, ... up to the usable processors, and what the loader asks for."""
    top = max(1, min(int(usable), _MOST))
    tried = {top, *(2**power for power in range(5) if 2**power <= top)}
    return sorted(tried | ({min(asked, _MOST)} if asked else set()))


def measure(loader: Any, workers: int, seconds: float) -> Rate:
    """Iterate the same loader with so many workers for so many seconds, start and first batches apart."""
    limit = max(60.0, 5 * seconds)
    policy = Policy(batch_timeout=limit, startup_timeout=limit, max_restarts=0, fallback="off", bad_sample_attempts=1)
    begun = monotonic()
    try:
        with DataLoader(loader.dataset, policy=policy, name="doctor", **_arguments(loader, workers)) as copy:
            batches = iter(copy)
            if next(batches, None) is None:
                return Rate(workers, None, None, "there is no batch")
            first = monotonic() - begun
            return Rate(workers, _rate(copy, batches, 2 * workers, seconds), first)
    except SafeLoaderError as error:
        return Rate(workers, None, None, inline(error.what))
    except Exception as error:  # torch's wrapper has the worker's traceback before the error itself
        last = (str(error).splitlines() or [""])[-1]
        return Rate(workers, None, None, inline(last, 160) or type(error).__name__)


def _arguments(loader: Any, workers: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": loader.collate_fn,
        "worker_init_fn": loader.worker_init_fn,
        "generator": loader.generator,
        "persistent_workers": True,
        "multiprocessing_context": "spawn",
        "prefetch_factor": loader.prefetch_factor or 2,
    }
    if torch_private.is_iterable(loader):
        return arguments | {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    if loader.batch_sampler is not None:
        return arguments | {"batch_sampler": loader.batch_sampler}
    return arguments | {"batch_size": None, "sampler": loader.sampler}


def _rate(loader: Any, batches: Any, warm: int, seconds: float) -> float | None:
    """Batches a second after the first ``warm`` ones; short epochs are begun again."""
    count, begun = -warm, monotonic()
    end = begun + seconds
    while True:
        for _ in batches:
            count += 1
            now = monotonic()
            if count == 0:
                begun, end = now, now + seconds
            elif count > 0 and now >= end:
                return count / (now - begun)
            elif now >= end + seconds:
                return None
        batches = iter(loader)


def recommend(
    rates: Sequence[Rate], asked: int, usable: float, timing: Timing | None, step: float | None
) -> Recommendation:
    """The smallest number of workers that is enough.

    Args:
        rates: what was measured.
        asked: the loader's own ``num_workers``.
        usable: processors that may be used.
        timing: what a batch costs in the trainer.
        step: seconds that one training step takes, if known.
    """
    good = [rate for rate in rates if rate.rate]
    if not good:
        return Recommendation(None, "no number of workers gave batches in time; see the problems above")
    best = max(good, key=lambda rate: rate.rate or 0.0)
    top = best.rate or 0.0
    if step is not None:
        if timing is not None and timing.batch < 0.05 * step:
            share = timing.batch / step
            reason = f"loading takes {share:.1%} of a training step of {duration(step)}: workers gain nothing"
            return Recommendation(0, reason)
        enough = [rate for rate in good if (rate.rate or 0.0) * step >= 1 / _ENOUGH]
        if enough:
            least = min(enough, key=lambda rate: rate.workers)
            reason = f"{_gives(least)}, and training takes {1 / step:.3g}"
            return Recommendation(least.workers, reason + _instead(asked, least.workers))
        reason = f"{_gives(best)}, the most measured, but training would take {1 / step:.3g}: it will wait for data"
        return Recommendation(best.workers, reason + _cpu_bound(best, usable))
    if timing is not None and 0 < timing.batch * top * _SURELY < 1:
        alone = f"the trainer alone would load {1 / timing.batch:.3g} batches a second"
        reason = f"{alone}, {many(best.workers, 'worker')} at most {top:.3g}: samples are cheaper than sending them"
        return Recommendation(0, reason + _instead(asked, 0))
    least = min((r for r in good if (r.rate or 0.0) >= _ENOUGH * top), key=lambda r: r.workers)
    reason = _gives(least)
    if least is not best:
        reason += f"; {best.workers} give {top:.3g}, hardly more"
    elif best.workers == max(rate.workers for rate in good):
        reason += ", the most that was measured" + _cpu_bound(best, usable)
    if timing is not None and timing.batch:
        reason += f"; the trainer alone would load {1 / timing.batch:.3g}"
    return Recommendation(least.workers, reason + _instead(asked, least.workers))


def _gives(rate: Rate) -> str:
    return f"{many(rate.workers, 'worker')} {'gives' if rate.workers == 1 else 'give'} {rate.rate:.3g} batches a second"


def _instead(asked: int, found: int) -> str:
    return "" if asked == found else f" (the loader asks for {asked})"


def _cpu_bound(best: Rate, usable: float) -> str:
    return f"; only {usable:.3g} processors may be used" if best.workers >= usable else ""
