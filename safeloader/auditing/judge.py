"""From records to findings: pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.auditing.report import EpochFacts, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from safeloader.auditing.watched import Observation

__all__ = ["AuditPlan", "facts_of", "judge", "sorted_findings"]

_SHOWN = 5
_GLOBAL = {"torch", "numpy", "python"}


class AuditPlan(NamedTuple):
    """What the loader's arguments promise.

    Attributes:
        length: length of the dataset; None for an iterable one.
        complete: the sampler means to serve each index once (not a subset, not weighted, no replacement).
        shuffled: the sampler means to give another order each epoch.
        dropped: samples that ``drop_last`` may leave out.
        padded: samples that a distributed sampler may repeat to make the ranks even.
        set_epoch: the sampler has a ``set_epoch`` that the audit did not call.
        workers: number of workers.
        whole: all ranks, and all batches, were seen.
    """

    length: int | None
    complete: bool
    shuffled: bool
    dropped: int
    padded: int
    set_epoch: bool
    workers: int
    whole: bool


Epoch = dict[int, "Sequence[Observation]"]
"""Records by rank, in the order served."""


def facts_of(epoch: Epoch, plan: AuditPlan) -> EpochFacts:
    """An epoch in numbers."""
    counts = Counter(_what(seen) for seen in _all(epoch))
    missing = None if plan.length is None else sum(i not in counts for i in range(plan.length))
    return EpochFacts(
        samples=counts.total(),
        different=len(counts),
        missing=missing,
        repeated=sum(count > 1 for count in counts.values()),
        per_worker=dict(sorted(Counter((rank, s.worker) for rank, some in epoch.items() for s in some).items())),
    )


def judge(epochs: Sequence[Epoch], plan: AuditPlan) -> list[Finding]:
    """All findings about what was served, warnings first."""
    found = [*_coverage(epochs, plan), *_orders(epochs, plan), *_streams(epochs), *_reseeded(epochs)]
    found += _contents(epochs, plan)
    return sorted_findings(found)


def sorted_findings(found: Iterable[Finding]) -> list[Finding]:
    """Warnings first."""
    return sorted(found, key=lambda finding: finding.level != "warning")


def _all(epoch: Epoch) -> Iterator[Observation]:
    for some in epoch.values():
        yield from some


def _what(seen: Observation) -> Any:
    return seen.content if seen.index is None else seen.index


def _some(things: Iterable[Any]) -> str:
    listed = list(things)
    return ", ".join(map(str, listed[:_SHOWN])) + (f", ... ({len(listed):,} in all)" if len(listed) > _SHOWN else "")


# ---------------------------------------------------------------- which samples


def _coverage(epochs: Sequence[Epoch], plan: AuditPlan) -> Iterator[Finding]:
    if plan.length is None or not plan.whole:
        return
    for number, epoch in enumerate(epochs):
        counts = Counter(seen.index for seen in _all(epoch))
        missing = [i for i in range(plan.length) if i not in counts]
        if missing and not plan.complete:
            yield Finding("never_served", "note", f"epoch {number}: {_say(missing)} never served; the sampler chooses")
        elif len(missing) > plan.dropped:
            yield Finding(
                "never_served", "warning", f"epoch {number}: {_say(missing)} never served: {_some(missing)}",
                "check the sampler's length and data source against the dataset",
            )  # fmt: skip
        elif missing:
            yield Finding("dropped", "note", f"epoch {number}: drop_last leaves out {_say(missing)}")
        repeated = [i for i, count in counts.items() if count > 1]
        extra = counts.total() - len(counts)
        if repeated and plan.complete and extra > plan.padded:
            yield Finding(
                "repeated", "warning", f"epoch {number}: {_say(repeated)} served more than once: {_some(repeated)}",
                "check the sampler; where several ranks serve the same samples, use a DistributedSampler",
            )  # fmt: skip
        elif repeated:
            text = f"epoch {number}: {_say(repeated)} served more than once, as the sampler means to"
            yield Finding("repeated", "note", text)
    always = set(range(plan.length)) - {seen.index for epoch in epochs for seen in _all(epoch)}
    if len(epochs) > 1 and plan.shuffled and plan.complete and len(always) > plan.padded + plan.dropped:
        yield Finding(
            "never_served_at_all", "warning", f"{_say(sorted(always))} not served in any of {len(epochs)} epochs",
            "a new order each epoch would serve others: is the shuffling seeded anew each time?",
        )  # fmt: skip


def _say(indices: Sequence[Any]) -> str:
    return "1 index was" if len(indices) == 1 else f"{len(indices):,} indices were"


def _orders(epochs: Sequence[Epoch], plan: AuditPlan) -> Iterator[Finding]:
    if plan.length is None or not plan.shuffled:
        return
    orders: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, epoch in enumerate(epochs):
        orders[tuple(seen.index for seen in _all(epoch))].append(number)
    for order, same in orders.items():
        if len(same) > 1 and len(set(order)) > 2:
            yield Finding(
                "same_order", "note" if plan.set_epoch else "warning",
                f"epochs {_some(same)} have the same order, although the sampler shuffles",
                "call loader.set_epoch(epoch) (or sampler.set_epoch) before each epoch" if plan.set_epoch
                else "do not seed the sampler's generator anew before each epoch",
            )  # fmt: skip


# ---------------------------------------------------------------- which random numbers


def _streams(epochs: Sequence[Epoch]) -> Iterator[Finding]:
    """A generator that is in the same state before two samples gives both the same random numbers."""
    users: dict[tuple[str, bytes], list[tuple[int, int, int, Any]]] = defaultdict(list)
    for number, epoch in enumerate(epochs):
        for rank, some in epoch.items():
            for position, seen in enumerate(some):
                for name, state in seen.drew.items():
                    what = f"position {position}" if seen.index is None else seen.index
                    users[name, state].append((number, rank, seen.worker, what))
    shared: dict[tuple[str, str], list[list[tuple[int, int, int, Any]]]] = defaultdict(list)
    for (name, _), who in users.items():
        if len(who) > 1:
            shared[name, _across(who)].append(who)
    for (name, across), cases in shared.items():
        yield _stream_finding(name, across, cases)


def _reseeded(epochs: Sequence[Epoch]) -> Iterator[Finding]:
    users: dict[str, set[Any]] = defaultdict(set)
    for epoch in epochs:
        for seen in _all(epoch):
            for call in seen.seeded:
                users[call].add(seen.index)
    for call, indices in users.items():
        if len(indices) > 1:
            yield Finding(
                "same_random_stream", "warning",
                f"equal random numbers across samples: loading seeds {call}, for {len(indices):,} different samples",
                "do not seed in the dataset, or with the sample's index and the epoch in the seed",
            )  # fmt: skip


def _across(who: Sequence[tuple[int, int, int, Any]]) -> str:
    ranks, workers, epochs = ({user[field] for user in who} for field in (1, 2, 0))
    if len(ranks) > 1:
        return "ranks"
    if len(workers) > 1:
        return "workers"
    return "epochs" if len(epochs) > 1 else "samples"


def _stream_finding(name: str, across: str, cases: Sequence[Sequence[tuple[int, int, int, Any]]]) -> Finding:
    example = "; ".join(
        f"epoch {epoch}, rank {rank}, worker {worker}, sample {what}" for epoch, rank, worker, what in cases[0][:2]
    )
    if name in _GLOBAL:
        hint = (
            f"something seeds {name} with a fixed number: in worker_init_fn use torch.initial_seed() "
            "(it differs by worker and epoch), and do not seed in the dataset"
        )
    else:
        hint = (
            f"{name} is copied, state and all, into each worker: make it in worker_init_fn or on first use, from "
            "torch.initial_seed(), or draw from the global generators, which each worker seeds for itself"
        )
    return Finding(
        "same_random_stream", "warning",
        f"equal random numbers across {across}: {name} was in the same state before different samples in "
        f"{len(cases):,} cases, for example {example}", hint,
    )  # fmt: skip


# ---------------------------------------------------------------- which contents


def _contents(epochs: Sequence[Epoch], plan: AuditPlan) -> Iterator[Finding]:
    if plan.length is None:
        yield from _sharding(epochs)
        return
    for number, epoch in enumerate(epochs):
        by_index = {seen.index: seen.content for seen in _all(epoch)}
        different = len(set(by_index.values()))
        if different < len(by_index):
            yield Finding(
                "equal_samples", "warning" if different * 2 <= len(by_index) and len(by_index) > 2 else "note",
                f"epoch {number}: {len(by_index):,} indices gave {different:,} different samples",
                "look at how the dataset uses the index",
            )  # fmt: skip
    yield from _frozen(epochs)


def _frozen(epochs: Sequence[Epoch]) -> Iterator[Finding]:
    contents: dict[Any, set[bytes]] = defaultdict(set)
    times: Counter[Any] = Counter()
    drew: set[Any] = set()
    for epoch in epochs:
        for seen in _all(epoch):
            contents[seen.index].add(seen.content)
            times[seen.index] += 1
            if seen.drew:
                drew.add(seen.index)
    again = [index for index in drew if times[index] > 1]
    frozen = [index for index in again if len(contents[index]) == 1]
    if len(again) > 1 and len(frozen) == len(again):
        yield Finding(
            "frozen_augmentation", "warning",
            f"random numbers are drawn, yet each of {len(frozen):,} samples came out the same in every epoch",
            "is the augmentation's result used? is it seeded by the index alone?",
        )  # fmt: skip


def _sharding(epochs: Sequence[Epoch]) -> Iterator[Finding]:
    for number, epoch in enumerate(epochs):
        by: dict[tuple[int, int], set[bytes]] = defaultdict(set)
        for rank, some in epoch.items():
            for seen in some:
                by[rank, seen.worker].add(seen.content)
        owners = Counter(content for contents in by.values() for content in contents)
        twice = sum(count > 1 for count in owners.values())
        if twice:
            yield Finding(
                "not_sharded", "warning",
                f"epoch {number}: {twice:,} of {len(owners):,} different samples came from more than one of "
                f"{len(by)} workers",
                "an iterable dataset must give each worker its part: see torch.utils.data.get_worker_info(), and the "
                "rank where there are several",
            )  # fmt: skip
            return
