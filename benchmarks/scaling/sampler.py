"""The elastic sampler, with as many samples and ranks as one asks for; torch's, as far as its memory goes."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any

from torch.utils.data import DistributedSampler

from safeloader.distributed import ElasticDistributedSampler

__all__ = ["Cost", "distinct", "measure", "measure_torch"]

BATCH = 32
_BATCHES = 2000


@dataclass(frozen=True)
class Cost:
    """Of one rank's sampler.

    Attributes:
        name: whose.
        samples: of the dataset.
        ranks: of the group.
        first_seconds: from making it to the first index.
        peak_bytes: memory that it took for that, as Python and numpy count it.
        index_seconds: for each further index.
        state_bytes: of its state, as JSON; None: it has none.
        resume_seconds: from a state in the middle of an epoch to the next index.
    """

    name: str
    samples: int
    ranks: int
    first_seconds: float
    peak_bytes: int
    index_seconds: float
    state_bytes: int | None
    resume_seconds: float | None


def _sampler(samples: int, ranks: int, rank: int = 7) -> ElasticDistributedSampler:
    return ElasticDistributedSampler(range(samples), ranks, rank % ranks, seed=3, batch_size=BATCH)


def measure(samples: int, ranks: int) -> Cost:
    """safeloader's."""
    _first(lambda: _sampler(1 << 12, 2))
    first = _first(lambda: _sampler(samples, ranks))
    peak = _peak(lambda: _sampler(samples, ranks))
    sampler = _sampler(samples, ranks)
    batches = iter(sampler)
    next(batches)
    begun = monotonic()
    count = sum(len(batch) for batch in islice(batches, min(_BATCHES, len(sampler) // 2)))
    each = (monotonic() - begun) / max(count, 1)
    state = sampler.state_dict()

    def resumed() -> ElasticDistributedSampler:
        other = _sampler(samples, max(ranks // 2, 1))
        other.load_state_dict(state)
        return other

    return Cost("safeloader", samples, ranks, first, peak, each, len(json.dumps(state)), _first(resumed))


def measure_torch(samples: int, ranks: int) -> Cost:
    """torch's, whose list of all indices its iterator makes at once."""

    def sampler() -> Any:
        return DistributedSampler(range(samples), ranks, 7 % ranks, seed=3)  # type: ignore[arg-type]

    first, peak = _first(sampler), _peak(sampler)
    return Cost("torch", samples, ranks, first, peak + 8 * samples, 0.0, None, None)


def _first(make: Any) -> float:
    begun = monotonic()
    next(iter(make()))
    return monotonic() - begun


def _peak(make: Any) -> int:
    tracemalloc.start()
    try:
        next(iter(make()))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def distinct(samples: int, ranks: int) -> int:
    """Of all ranks' first batches, how many samples are there, each once. Raises if any is there twice."""
    seen: set[int] = set()
    total = 0
    for rank in range(ranks):
        batch = next(iter(_sampler(samples, ranks, rank)))
        total += len(batch)
        seen.update(batch)
    if len(seen) != total:
        raise RuntimeError(f"{total - len(seen)} of {total} samples are given twice")
    return total
