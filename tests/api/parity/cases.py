"""Configurations, generated from their numbers, and what comes out of one of them."""

from __future__ import annotations

import gc
import hashlib
import inspect
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.data as tud
from torch.utils.data.datapipes.iter import IterableWrapper
from torch.utils.data.datapipes.map import SequenceWrapper

from tests.api.parity import data
from tests.api.parity.describe import describe

__all__ = ["Case", "case", "trace"]

Draws = tuple[str, ...]
_ALL = ("torch", "numpy", "python")


@dataclass(frozen=True)
class Case:
    """One configuration of a loader and of the program around it.

    Attributes:
        epochs: after how many batches each epoch is left; None goes to its end.
        order: which sampler.
        kind: which dataset.
        raises: loading sample 3 raises an error.
    """

    number: int
    kind: str
    length: int
    shards: tuple[int, ...]
    order: str
    batch_size: int | None
    drop_last: bool
    generator: bool
    num_workers: int
    prefetch_factor: int | None
    persistent: bool
    in_order: bool
    epochs: tuple[int | None, ...]
    init: str
    draws: Draws
    collate: str
    asks_length: bool
    pin_memory: bool
    raises: bool
    max_processes: int | None

    @property
    def iterable(self) -> bool:
        return self.kind in _STREAMS

    def __str__(self) -> str:
        said = {key: value for key, value in asdict(self).items() if value not in (None, False, "", (), "none")}
        del said["length" if self.iterable else "shards"]
        said["in_order"] = self.in_order
        return " ".join(f"{key}={value}" for key, value in said.items())


_MAPS = ["items", "items", "at once", "subset", "concat", "random_split", "tensors", "map pipe"]
_STREAMS = ["shards", "chain", "shards", "pipe"]
_ORDERS = ["none", "shuffle", "subset", "weighted", "lazy", "endless", "iterator", "names", "batches",
           "shuffled batches", "lazy"]  # fmt: skip


def _deal(number: int, what: str, values: list[Any]) -> Any:
    """Deal the values out like cards, shuffled anew for every round: each comes up as often as any other."""
    round_, place = divmod(number, len(values))
    deck = list(values)
    random.Random(f"{what} {round_}").shuffle(deck)
    return deck[place]


def case(number: int) -> Case:
    """The configuration of this number; always the same one."""
    rng = random.Random(f"safeloader parity {number}")
    iterable = number % 3 == 1
    maps = number - (number + 1) // 3
    order = "none" if iterable else _deal(maps, "order", _ORDERS)
    kind = _deal(number // 3, "stream", _STREAMS) if iterable else _kind(maps, order)
    own_batches = order in ("batches", "shuffled batches")
    batch_size = 1 if own_batches else _deal(number, "batch size", [None, 1, 2, 3, 4])
    workers = 0 if number % 12 == 0 else _deal(number, "workers", [1, 2, 2, 3, 4])
    persistent = workers > 0 and rng.random() < 0.7
    in_order = not (workers > 1 and not iterable and number % 5 == 0)
    leaves = in_order and rng.random() < 0.5
    draws = tuple(kind for kind in _ALL if rng.random() < 0.7)
    if not in_order or (iterable and persistent and leaves):
        draws = ()  # torch's own bytes depend on the timing there
    return Case(
        number=number,
        kind=kind,
        length=rng.choice([3, 7, 12, 12, 17, 17]),
        shards=tuple(rng.choice([0, 1, 3, 5, 8, 8]) for _ in range(rng.choice([2, 3, 4, 5]))),
        order=order,
        batch_size=batch_size,
        drop_last=batch_size is not None and not own_batches and rng.random() < 0.4,
        generator=rng.random() < 0.5,
        num_workers=workers,
        prefetch_factor=_deal(number, "prefetch", [None, 1, 2, 3, 4]) if workers else None,
        persistent=persistent,
        in_order=in_order,
        epochs=_epochs(rng, persistent, leaves, order == "endless"),
        init=_init(rng, kind, workers),
        draws=draws,
        collate="identity" if batch_size is None else rng.choice(["", "", "draws" if draws else "", "identity"]),
        asks_length=rng.random() < 0.5 and order != "endless",
        pin_memory=rng.random() < 0.2,
        raises=rng.random() < 0.2,
        max_processes=_deal(number, "processes", [None, 1, 1, 2]),
    )


def _kind(number: int, order: str) -> str:
    return "items" if order == "names" else str(_deal(number, "kind", _MAPS))


def _epochs(rng: random.Random, persistent: bool, leaves: bool, endless: bool) -> tuple[int | None, ...]:
    count = 3 if persistent else 2
    if endless:
        return tuple(rng.choice([2, 4, 5]) for _ in range(count))
    first = rng.choice([1, 2, 3]) if leaves else None
    return (first, *[None] * (count - 1)) if count == 2 else (None, first, None)


def _init(rng: random.Random, kind: str, workers: int) -> str:
    if not workers:
        return ""
    if kind == "shards" and rng.random() < 0.4:
        return "sharding"
    return rng.choice(["", "seeding"])


# ---------------------------------------------------------------- building


def _dataset(c: Case) -> Any:
    shows, bad = c.in_order, 3 if c.raises else None
    plain = data.Items(c.length, c.draws, shows, bad)
    made: dict[str, Callable[[], Any]] = {
        "items": lambda: plain,
        "at once": lambda: data.ItemsAtOnce(c.length, c.draws, shows, bad),
        "subset": lambda: tud.Subset(plain, [*range(c.length)][::-1]),
        "concat": lambda: tud.ConcatDataset([plain, data.Items(5, c.draws, shows)]),
        "random_split": lambda: tud.random_split(plain, [0.6, 0.4], torch.Generator().manual_seed(c.number))[0],
        "tensors": lambda: tud.TensorDataset(torch.arange(c.length * 3.0).reshape(-1, 3), torch.arange(c.length)),
        "shards": lambda: data.Shards(c.shards, c.draws, shows, bad),
        "chain": lambda: tud.ChainDataset([data.Shards((3,), c.draws, shows), data.Shards(c.shards, c.draws, shows)]),
        "pipe": lambda: _pipe(c, shows, bad),
        "map pipe": lambda: _map_pipe(c, shows, bad),
    }
    return made[c.kind]()


def _pipe(c: Case, shows: bool, bad: int | None) -> Any:
    """Shuffled alike in all workers, by a seed that they share, then sharded."""
    wrap: Any = IterableWrapper
    indices = wrap(range(c.length)).shuffle(buffer_size=5).sharding_filter()
    return indices.map(data.PipeItem(c.draws, shows, bad))


def _map_pipe(c: Case, shows: bool, bad: int | None) -> Any:
    wrap: Any = SequenceWrapper
    return wrap(range(c.length)).map(data.PipeItem(c.draws, shows, bad))


def _order(c: Case, length: int, generator: torch.Generator | None) -> dict[str, Any]:
    if c.kind == "pipe" and c.number % 2:
        return {"shuffle": c.drop_last}
    if c.iterable or c.order == "none":
        return {}
    if c.order == "shuffle":
        return {"shuffle": True}
    if c.order == "batches":
        return {"batch_sampler": data.UnevenBatches(length)}
    if c.order == "shuffled batches":
        return {"batch_sampler": tud.BatchSampler(tud.RandomSampler(range(length), generator=generator), 3, False)}
    subset = [*range(0, length, 2)]
    weights = [1.0 + i % 3 for i in range(length)]
    samplers: dict[str, Callable[[], Any]] = {
        "subset": lambda: tud.SubsetRandomSampler(subset, generator),
        "weighted": lambda: tud.WeightedRandomSampler(weights, length + 3, generator=generator),
        "lazy": lambda: data.LazySampler(length),
        "endless": lambda: data.EndlessSampler(length, generator),
        "iterator": lambda: data.SamplerWithIterator(length),
        "names": lambda: data.NameSampler(length),
    }
    return {"sampler": samplers[c.order]()}


def build(c: Case, loader_class: Any, generator: torch.Generator | None, **more: Any) -> Any:
    """The loader of a configuration."""
    dataset = _dataset(c)
    collate = {"": None, "draws": data.collate_with_draws, "identity": data.collate_identity}[c.collate]
    init = {"": None, "seeding": data.init_seeding, "sharding": data.init_sharding}[c.init]
    return loader_class(
        dataset,
        **_order(c, c.length if c.kind == "pipe" else len(dataset), generator),
        **({} if c.order in ("batches", "shuffled batches") else {"batch_size": c.batch_size}),
        drop_last=c.drop_last,
        num_workers=c.num_workers,
        prefetch_factor=c.prefetch_factor,
        persistent_workers=c.persistent,
        collate_fn=collate,
        worker_init_fn=init,
        generator=generator,
        pin_memory=c.pin_memory,
        **({"in_order": c.in_order} if _knows_in_order(loader_class) else {}),
        **more,
    )


def _knows_in_order(loader_class: Any) -> bool:
    """torch does from 2.6 on; before, its order is a right one among all."""
    return "in_order" in inspect.signature(loader_class).parameters


# ---------------------------------------------------------------- running


def trace(c: Case, loader_class: Any, **more: Any) -> list[Any]:
    """Everything that can be seen of a configuration, in order."""
    _seed(c.number)
    generator = torch.Generator().manual_seed(c.number + 1) if c.generator else None
    seen: list[Any] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loader = build(c, loader_class, generator, **more)
        for limit in c.epochs:
            if c.asks_length:
                seen.append(("length", len(loader)))
            seen += _epoch(c, loader, limit)
            seen.append(("generators", _generators(generator)))
        getattr(loader, "close", gc.collect)()
    said = [(w.category.__name__, re.sub("0x[0-9a-f]+", "0x", str(w.message))) for w in warned]
    seen.append(("warnings", _once_a_loader([one for one in said if "multi-threaded" not in one[1]])))  # about fork
    return seen


def _once_a_loader(said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the repetitions of torch's advice about the number of workers, which safeloader gives once a loader."""
    advice = [one for one in said if "suggested max number of worker" in one[1]]
    return advice[:1] + [one for one in said if one not in advice]


def _epoch(c: Case, loader: Any, limit: int | None) -> list[Any]:
    batches: list[Any] = []
    draws: list[Any] = []
    iterator = iter(loader)
    while len(batches) != limit:
        try:
            batches.append(describe(next(iterator)))
        except StopIteration:
            break
        except ValueError as error:  # loading the next batch goes on
            batches.append(("error", type(error).__name__, str(error).splitlines()[-1].removeprefix("ValueError: ")))
        draws.append(data.draw(_ALL))  # a training step draws, too: a sampler that steps too early is seen
    if not c.in_order:
        batches.sort(key=repr)
    return [("batches", len(batches)), *batches, ("draws", draws)]


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _generators(passed: torch.Generator | None) -> list[str]:
    states = [
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()).encode(),
        repr(random.getstate()).encode(),
        b"" if passed is None else passed.get_state().numpy().tobytes(),
    ]
    return [hashlib.sha256(state).hexdigest()[:16] for state in states]
