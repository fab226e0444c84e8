"""Runs the epochs that an audit looks at, and leaves the loader as it was."""

from __future__ import annotations

import copy
import itertools
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.data as tud

from safeloader import torch_private
from safeloader.auditing.again import as_it_is, look_again
from safeloader.auditing.generators import Streams, digest
from safeloader.auditing.judge import AuditPlan, Epoch, facts_of, judge, sorted_findings
from safeloader.auditing.report import AuditReport, Finding
from safeloader.auditing.watched import Observation, as_list, watch
from safeloader.dist_env import ALONE, group
from safeloader.errors import AuditError
from safeloader.loader import DataLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["audit"]


def audit(
    loader: tud.DataLoader[Any] | Any, epochs: int = 2, *, set_epoch: bool = False, batches: int | None = None
) -> AuditReport:
    """Rehearse epochs of a loader and look at what it serves: which indices, by whom, with which random numbers.

    The samples are really loaded, in workers set up like the loader's own (its sampler, generator, ``worker_init_fn``,
    persistence), and thrown away. The loader, its sampler and the generators are afterwards as they were before.
    Where torch.distributed is initialised, every rank has to call this, and each gets the findings about all.

    Args:
        loader: torch's or safeloader's, FFCV's of safeloader (``safeloader.ffcv.Loader``) too.
        epochs: how many to rehearse; differences between epochs need two.
        set_epoch: call the sampler's ``set_epoch`` before each, as the training loop should.
        batches: look at so many batches of each epoch only (no findings about coverage then).

    Returns:
        The report; ``report.ok`` is False if something was found that training suffers from.

    Raises:
        AuditError: the loader cannot be rehearsed.
        ValueError: ``epochs`` or ``batches`` is less than one.
    """
    if epochs < 1 or (batches is not None and batches < 1):
        raise ValueError("an audit needs at least one epoch, and one batch of each")
    if of_ffcv(loader):
        return _audit_ffcv(loader, epochs, batches)
    if isinstance(loader.dataset, (tud.IterDataPipe, tud.MapDataPipe)):
        raise AuditError(
            "data pipes cannot be audited: torch shards them by walking their graph, which watching would hide",
            hint="audit a loader over the dataset that the pipe reads",
        )
    put_back = Streams(loader.dataset).keep()
    try:
        seen = [_gathered(epoch) for epoch in _rehearse(loader, epochs, set_epoch, batches)]
        found = _looked_again(loader)
    finally:
        put_back()
    plan = _plan(loader, set_epoch, batches)
    name = getattr(loader, "name", None) or type(loader.dataset).__name__
    return AuditReport(name, [facts_of(epoch, plan) for epoch in seen], sorted_findings([*judge(seen, plan), *found]))


def of_ffcv(loader: Any) -> bool:
    """Whether it is a ``safeloader.ffcv.Loader``."""
    known = sys.modules.get("safeloader.ffcv.loader")
    return known is not None and isinstance(loader, known.Loader)


def _audit_ffcv(loader: Any, epochs: int, batches: int | None) -> AuditReport:
    from safeloader.ffcv.rehearsal import Rehearsal

    put_back = Streams(None).keep()
    try:
        try:
            rehearsal = Rehearsal.of(loader)
        except (TypeError, copy.Error) as error:
            raise AuditError(
                f"an operation cannot be copied ({error}), and an audit must not use it up",
                hint="give it a __deepcopy__, or audit a loader made for the purpose",
            ) from error
        with rehearsal.loader as running:
            seen = [
                _gathered([_of_ffcv(index, sample, rehearsal.draws, running, epoch)
                           for index, sample in rehearsal.samples(batches)])
                for epoch in range(epochs)
            ]  # fmt: skip
    finally:
        put_back()
    whole = batches is None and _world() > rehearsal.padded
    plan = AuditPlan(
        rehearsal.length, rehearsal.complete, rehearsal.shuffled, rehearsal.dropped, rehearsal.padded, False, 1, whole
    )
    return AuditReport(loader.name, [facts_of(epoch, plan) for epoch in seen], judge(seen, plan))


def _of_ffcv(index: int, sample: Any, draws: bool, running: Any, epoch: int) -> Observation:
    """FFCV's random numbers are a function of seed, epoch and sample, which is all that can be said of their state."""
    drew = {"ffcv": digest((running.seed, epoch, index))} if draws else {}
    return Observation(index, 0, drew, digest(sample))


def _rehearse(loader: Any, epochs: int, set_epoch: bool, batches: int | None) -> Iterator[list[Observation]]:
    with _copy(loader) as rehearsal:
        sampler = _sampler(rehearsal)
        for epoch in range(epochs):
            if set_epoch and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            with warnings.catch_warnings():  # a forgotten set_epoch is among the findings
                warnings.simplefilter("ignore", UserWarning)
                served = [seen for batch in itertools.islice(rehearsal, batches) for seen in batch]
            yield served


def _looked_again(loader: Any) -> list[Finding]:
    """Whether the dataset can be brought back to a place in a fresh process."""
    iterable = torch_private.is_iterable(loader)

    def load(dataset: Any) -> list[Any]:
        workers = max(loader.num_workers, 1) if iterable else 1
        rehearsal = DataLoader(
            dataset, batch_size=None, num_workers=workers, worker_init_fn=loader.worker_init_fn, collate_fn=as_it_is,
            policy=getattr(loader, "policy", None), name=f"audit of {type(loader.dataset).__name__}",
        )  # fmt: skip
        with rehearsal:
            return list(rehearsal)

    try:
        return look_again(loader.dataset, iterable, load)
    except Exception as error:
        text = f"whether the dataset can be brought back to a place could not be tried: {type(error).__name__}: {error}"
        return [Finding("not_tried", "note", text.splitlines()[0])]


def _copy(loader: Any) -> DataLoader[Any]:
    """The same loader over the watched dataset, with copies of whatever iterating changes."""
    iterable = torch_private.is_iterable(loader)
    arguments: dict[str, Any] = {
        name: getattr(loader, name)
        for name in ("num_workers", "worker_init_fn", "prefetch_factor", "persistent_workers", "timeout")
    }
    if iterable:
        arguments |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        arguments["generator"] = _cloned(loader.generator)
    else:
        by_batch = loader.batch_sampler is not None
        sampler = loader.batch_sampler if by_batch else loader.sampler
        sampler, arguments["generator"] = _copied(sampler, loader)
        arguments |= {"batch_sampler": sampler} if by_batch else {"batch_size": None, "sampler": sampler}
    name = f"audit of {getattr(loader, 'name', None) or type(loader.dataset).__name__}"
    return DataLoader(
        watch(loader.dataset, iterable), collate_fn=as_list, policy=getattr(loader, "policy", None), name=name,
        **arguments,
    )  # fmt: skip


def _copied(sampler: Any, loader: Any) -> tuple[Any, Any]:
    """Copies of sampler and generator that belong together; the dataset under the sampler is not copied."""
    generator = _cloned(loader.generator)
    memo = {id(loader.dataset): loader.dataset}
    if generator is not None:
        memo[id(loader.generator)] = generator
    inner = _sampler(loader)
    if getattr(inner, "generator", None) is not None and id(inner.generator) not in memo:
        memo[id(inner.generator)] = _cloned(inner.generator)
    try:
        return copy.deepcopy(sampler, memo), generator
    except Exception as error:
        raise AuditError(
            f"the sampler, a {type(sampler).__name__}, cannot be copied ({error}), and an audit must not use it up",
            hint="give it a __deepcopy__, or audit a loader made for the purpose",
        ) from error


def _cloned(generator: Any) -> Any:
    if not isinstance(generator, torch.Generator):
        return generator
    clone = torch.Generator(generator.device)
    clone.set_state(generator.get_state())
    return clone


def _sampler(loader: Any) -> Any:
    """The sampler that decides: the one inside a batch sampler, where it has one."""
    batch_sampler = loader.batch_sampler
    return loader.sampler if batch_sampler is None else getattr(batch_sampler, "sampler", batch_sampler)


def _plan(loader: Any, set_epoch: bool, batches: int | None) -> AuditPlan:
    workers = max(loader.num_workers, 1)
    if torch_private.is_iterable(loader):
        return AuditPlan(None, False, False, 0, 0, False, workers, batches is None)
    sampler = _sampler(loader)
    length, ranks = len(loader.dataset), getattr(sampler, "num_replicas", 1)
    chooses = isinstance(sampler, (tud.WeightedRandomSampler, tud.SubsetRandomSampler))
    replaces = bool(getattr(sampler, "replacement", False))
    drop = bool(getattr(loader.batch_sampler, "drop_last", False))
    size = getattr(loader.batch_sampler, "batch_size", None) or 1
    drops_tail = bool(getattr(sampler, "drop_last", False))
    return AuditPlan(
        length=length,
        complete=not chooses and not replaces,
        shuffled=not isinstance(sampler, tud.SequentialSampler) and bool(getattr(sampler, "shuffle", True)),
        dropped=(size * ranks - 1 if drop else 0) + (ranks - 1 if drops_tail else 0),
        padded=ranks - 1,
        set_epoch=hasattr(sampler, "set_epoch") and not set_epoch,
        workers=workers,
        whole=batches is None and _world() >= ranks,
    )


# ---------------------------------------------------------------- several ranks


def _world() -> int:
    return (group() or ALONE)[1]


def _gathered(mine: list[Observation]) -> Epoch:
    """What every rank saw; with one rank, what this one saw."""
    world = _world()
    if world == 1:
        return {0: mine}
    everybody: list[Any] = [None] * world
    torch.distributed.all_gather_object(everybody, mine)
    return dict(enumerate(everybody))
