"""Notices ranks that iterate a loader differently: other data, or another number of batches.

Through the process group's store, and nobody waits for anybody: the first rank to begin a pass over a loader writes
what it is about to iterate, each further one compares, and if it differs it is the one to say so, before its epoch
begins. At the end of the pass the same with the number of batches. So it is one round trip at either end, whatever the
number of ranks; a loader that only some ranks iterate is compared with nobody, and a store that is gone costs two
seconds, once.

Which loader of another rank is meant is told by its name; without one, by the classes of its dataset and sampler and
by how many such were made before. Passes are counted by the sampler's epoch, so that one more on one rank alone shifts
none.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import DistributedSampler

from .. import torch_private
from ..errors import RanksDisagreeError
from ..lengths import length_of
from ..observe.log import logger
from ..ranks import group
from ..state.sampling import chain_of
from .alike import Told, ends_differ, facts_differ, gone_on_alone
from .elastic import ElasticDistributedSampler

if TYPE_CHECKING:
    from ..loader import DataLoader
    from ..settings import Settings
    from .store import GroupStore

__all__ = ["Pass", "RankGuard"]

_WITHIN = 2.0
_KEPT = 4  # passes whose keys stay, for ranks that are behind
_made: Counter[str] = Counter()


class Pass(NamedTuple):
    """One pass over a loader that is compared.

    Attributes:
        key: Where it is in the store.
        where: Loader and epoch, in words.
        rank: This one.
        at: The batch with which it began.
        store: The process group's.
    """

    key: str
    where: str
    rank: int
    at: int
    store: GroupStore


class RankGuard:
    """One loader's.

    Args:
        name: The loader's, if the program gave it one.
        settings: In effect.

    Attributes:
        current: The pass that was begun last; None where it is not compared.
    """

    def __init__(self, name: str | None, settings: Settings) -> None:
        self.current: Pass | None = None
        self._name = name
        self._mode = "off" if settings.disable else settings.rank_check
        self._strict = settings.strict
        self._identity = ""
        self._passes: Counter[str] = Counter()
        self._keys: deque[str] = deque()
        self._told = False

    def identify(self, loader: DataLoader[Any]) -> None:
        """Tell this loader from others of the program as all ranks do; for the loader's constructor to call."""
        if self._mode == "off":
            return
        kinds = [type(loader.dataset), *map(type, chain_of(torch_private.index_sampler(loader)))]
        shuffles = [getattr(one, "shuffle", None) for one in chain_of(torch_private.index_sampler(loader))]
        kind = self._name or f"{'/'.join(kind.__qualname__ for kind in kinds)}{shuffles}"
        self._identity = f"{kind}/{_made[kind]}"
        _made[kind] += 1

    def begin(self, loader: DataLoader[Any], at: int) -> None:
        """A pass is about to begin.

        Args:
            loader: This one.
            at: The batch with which it begins.

        Raises:
            RanksDisagreeError: Another rank iterates other data, or as `rank_check` wants.
        """
        self.current = None
        here = group() if self._mode != "off" else None
        if here is None or here[1] == 1:
            return
        dealer = _dealer(loader, *here)
        if dealer is None and not torch_private.is_iterable(loader):
            return
        from .store import group_store

        store = group_store()
        if store is None:
            return
        facts, epoch = _facts(loader, dealer, at), str(getattr(dealer, "epoch", loader._safe.epochs))
        number = "begin"
        if self._passes:
            number = f"{epoch}.{self._passes[epoch]}"
        else:
            facts["epoch"] = epoch
        self._passes[epoch] += 1
        facts = json.loads(json.dumps(facts, default=str))
        self.current = Pass(
            f"alike/{self._identity}/{number}", f"{loader._safe.name}, epoch {epoch}", here[0], at, store
        )
        other = self._first_of(self.current, "", facts)
        if other is not None:
            told = facts_differ(self.current.where, here[0], facts, other["rank"], other["facts"])
            self._say(told, certain=type(dealer) in (DistributedSampler, ElasticDistributedSampler))

    def ended(self, over: Pass | None, batches: int) -> None:
        """A pass came to its end.

        Args:
            over: The `current` of when it began.
            batches: How far in the epoch.

        Raises:
            RanksDisagreeError: Another rank was given another number, and `rank_check` wants an error.
        """
        if over is None:
            return
        other = self._first_of(over, "/end", batches)
        if other is not None and not self._told:
            self._say(ends_differ(over.where, over.rank, batches, other["rank"], other["facts"]))

    def stalled(self, batches: int) -> None:
        """Nothing has moved for long: log it if that is because another rank has come to its end.

        Args:
            batches: What this rank was given since the pass began.
        """
        now = self.current
        found = now.store.look([f"{now.key}/end"], _WITHIN) if now is not None else None
        if now is None or not found:
            return
        other = json.loads(found[f"{now.key}/end"])
        told = gone_on_alone(now.where, now.rank, now.at + batches, other["rank"], other["facts"])
        if told is not None and _fresh(other):
            logger.warning("%s; try: %s", told.what, told.hint)

    def _first_of(self, now: Pass, suffix: str, facts: Any) -> dict[str, Any] | None:
        """What the first rank wrote at this place; None if that is this one, or the store is silent."""
        mine = json.dumps({"rank": now.rank, "time": time.time(), "facts": facts}, sort_keys=True, default=str)
        stale, key = b"", now.key + suffix
        while (there := now.store.first(key, mine, _WITHIN, stale)) is not None:
            if there == mine.encode():
                self._keep(now.store, key)
                return None
            found: dict[str, Any] = json.loads(there)
            if _fresh(found):
                return found
            stale = there
        _silent(now.store)
        return None

    def _keep(self, store: GroupStore, key: str) -> None:
        self._keys.append(key)
        if len(self._keys) > 2 * _KEPT:
            store.tell(self._keys.popleft(), None)

    def _say(self, told: Told | None, certain: bool = False) -> None:
        if told is None:
            return
        if self._strict or self._mode == "raise" or (self._mode == "auto" and told.data and certain):
            raise RanksDisagreeError(told.what, hint=told.hint)
        if not self._told:
            self._told = True
            warnings.warn(f"{told.what}. To change it: {told.hint}", UserWarning, stacklevel=5)


def _dealer(loader: DataLoader[Any], rank: int, world: int) -> Any:
    """The sampler that deals the samples to the ranks of this process group."""
    for one in chain_of(torch_private.index_sampler(loader)):
        if getattr(one, "num_replicas", None) == world and getattr(one, "rank", None) == rank:
            return one
    return None


def _facts(loader: DataLoader[Any], dealer: Any, at: int) -> dict[str, Any]:
    """What this rank is about to iterate; of an iterable dataset nothing is known."""
    if dealer is None:
        return {}
    cursor = dealer.state_dict_before(None)["cursor"] if isinstance(dealer, ElasticDistributedSampler) else 0
    return {
        "samples": length_of(loader.dataset),
        "seed": getattr(dealer, "seed", None),
        "shuffle": getattr(dealer, "shuffle", None),
        "ends": getattr(dealer, "ends", getattr(dealer, "drop_last", None)),
        "batches": length_of(torch_private.index_sampler(loader)),
        "at": [at, cursor],
    }


def _fresh(told: dict[str, Any]) -> bool:
    """Not written by a rank of an earlier start of the group."""
    from .store import born

    return bool(told["time"] >= born())


def _silent(store: GroupStore) -> None:
    if not store.silence_told:
        store.silence_told = True
        logger.warning("ranks are not compared, for the store of the process group is silent: %s", store.trouble)
