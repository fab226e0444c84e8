"""Which world a random walk goes through, and how hostile it is."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from safeloader.core.policy import CoreSettings

from .obeying import Plot
from .simulated import Nature, sample_of_iterator

__all__ = ["CALM", "Hostility", "random_hostility", "random_plot"]


@dataclass(frozen=True)
class Hostility:
    """How likely each misfortune is, at each step."""

    death: float
    hang: float
    absence: float
    impatience: float  # the clock jumps while processes could still move
    stale: float
    break_off: float
    close: float
    move: float  # another program goes on from the state
    hoard: bool  # the consumer keeps what it gets for long
    rewind: float = 0.0  # the consumer wants its last batches again
    neighbours: float = 0.05  # of a pool: they have its processes work, or killed


CALM = Hostility(0, 0, 0, 0, 0, 0, 0, 0, hoard=False, neighbours=0)


def random_plot(rng: random.Random) -> Plot:
    """A world that nobody would build by hand."""
    workers = rng.choice((1, 2, 2, 3, 4))
    iterable = rng.random() < 0.35
    batches, size = rng.randrange(20), rng.randrange(1, 6)
    batched = rng.random() < 0.85
    size = size if batched else 1
    stateful = rng.random() < 0.4
    settings = CoreSettings(
        num_workers=workers,
        prefetch_factor=rng.choice((1, 2, 3)),
        in_order=rng.random() < 0.7,
        indexed=not iterable,
        batched=batched,
        stateful=stateful,
        batch_timeout="auto" if rng.random() < 0.1 else 10.0,
        startup_timeout=30.0,
        max_restarts=rng.choice((0, 1, 2, 4, 4, 100)),
        restart_period=rng.choice((5.0, 60.0, 600.0)),
        fallback=rng.choice(("inline", "inline", "inline", "process", "off")),
        recover_after=rng.choice((1, 2, 5, 1000)),
        on_bad_sample=rng.choice(("raise", "skip")),
        bad_sample_attempts=rng.choice((1, 2, 2, 3)),
        max_processes=rng.choice((None, None, None, 0, 1, 2)),
    )
    nature = Nature(
        seed=rng.randrange(1 << 30),
        iterable=iterable,
        batched=batched,
        lengths=tuple(rng.choice((0, 1, 1, 1, 2, 4, 7)) for _ in range(workers)) if iterable else (),
        iter_moves=rng.random() < 0.8,
        skip_raising=settings.on_bad_sample == "skip" and not iterable,
        stateful=stateful,
        keyed=rng.random() < 0.3,
        known=rng.random() < 0.5,
        setup_kills=frozenset([0]) if rng.random() < 0.04 else frozenset(),
        lasting=frozenset([0]) if rng.random() < 0.15 else frozenset(),
        fits=_fits(rng, iterable, batches * size, settings.bad_sample_attempts),
        **_bad_samples(rng, iterable, workers, batches * size),
    )
    settings = replace(settings, shared=nature.seed % 3 == 0)
    nature = _unreliable(rng, nature)
    exact = stateful and not (nature.lying or nature.refusing) and rng.random() < 0.5
    settings = replace(settings, exact_state=exact, on_divergence=rng.choice(("raise", "warn")))
    if nature.seed % 7 < 3:  # enough to learn from others what a start takes
        settings = replace(settings, startup_timeout=400.0)
    if nature.seed % 5 < 2 and not iterable and not stateful:
        settings, nature = replace(settings, stateless=True), replace(nature, stateless=True)
    bad_starts = rng.choice((0.0,) * 12 + (0.2,) * 4 + (0.6,) * 3 + (1.0,))
    if bad_starts > 0.5:
        settings = replace(settings, max_restarts=min(settings.max_restarts, 4))
    alone = iterable or stateful or settings.shared
    settings = replace(settings, neighbours=not alone and nature.seed % 11 < 5)
    settings = replace(settings, standby=rng.choice((0, 0, 1, 1, 2)))
    shadows = (0.0, 0.1, 0.4, 0.4)[nature.seed // 15 % 4] if not settings.shared else 0.0
    no_room = (None, 0.3, 0.6, 1.0)[nature.seed // 240 % 4] if not settings.shared else None
    if nature.seed // 60 % 2 and not (stateful or settings.stateless):
        nature = replace(nature, hidden=True)
    return Plot(
        settings, nature, batches, size,
        shadows=shadows,
        no_room=no_room,
        bad_starts=bad_starts,
        hanging_starts=rng.choice((0.0, 0.5, 1.0)),
        refused_starts=rng.choice((0.0, 0.0, 0.0, 0.0, 0.3)),
        refusals=rng.choice((0.0,) * 9 + (0.1,)),
        unkillable=rng.choice((0.0, 0.0, 0.3)),
    )  # fmt: skip


def _bad_samples(rng: random.Random, iterable: bool, workers: int, total: int) -> dict[str, frozenset[int]]:
    def some(share: float) -> frozenset[int]:
        if rng.random() > share:
            return frozenset()
        if iterable:
            return frozenset({sample_of_iterator(rng.randrange(workers), rng.randrange(5))})
        return frozenset(rng.randrange(total) for _ in range(rng.randrange(1, 4))) if total else frozenset()

    return {"kills": some(0.3), "hangs": some(0.2), "raises": some(0.3)}


def _unreliable(rng: random.Random, nature: Nature) -> Nature:
    """A dataset that tells less than it is, or gives something else when it is read again."""
    chance = rng.random()
    if nature.stateful and chance < 0.3:
        return replace(nature, lying=True)
    if nature.stateful and chance < 0.4:
        return replace(nature, refusing=True)
    if nature.iterable and chance > 0.75:
        return replace(nature, shaky=frozenset({rng.randrange(len(nature.lengths)), 1 % len(nature.lengths)}))
    return nature


def _fits(rng: random.Random, iterable: bool, total: int, attempts: int) -> tuple[tuple[int, int], ...]:
    """A sample that kills just so often that its batch comes under suspicion, and is harmless then."""
    if iterable or total == 0 or rng.random() < 0.8:
        return ()
    return ((rng.randrange(total), attempts + rng.choice((1, 1, 1, 2))),)


def random_hostility(rng: random.Random) -> Hostility:
    level = rng.choice((0.0, 0.0, 0.3, 1.0, 1.0, 3.0))

    def some(rate: float) -> float:
        return rate * level if rng.random() < 0.7 else 0.0

    return Hostility(
        some(0.02), some(0.01), some(0.02), some(0.05), some(0.1), rng.choice((0.0, 0.01, 0.03)),
        rng.choice((0.0, 0.002)), rng.choice((0.0, 0.0, 0.01, 0.05)),
        hoard=rng.random() < 0.1,
    )  # fmt: skip
