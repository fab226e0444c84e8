"""Reports ranks that iterate a loader differently: other data, or another number of batches.

The ranks use the process group's store, and none waits for another. The first rank that begins a pass over a loader
writes what it is about to iterate; each further rank compares its own facts with that, before its epoch begins, and
reports a difference. The end of the pass is compared in the same way, by the number of batches. So each end costs one
round trip, whatever the number of ranks; a loader that only some ranks iterate is compared with nothing; a store that
does not answer costs two seconds, once.

Loaders of different ranks are matched by name; without a name, by the classes of dataset and sampler and by the number
of such loaders that were made before. Passes are matched by the sampler's epoch, so that an additional pass on one rank
shifts no other.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import DistributedSampler

from safeloader import codes, torch_private
from safeloader.codes import warn
from safeloader.dist_env import group
from safeloader.distributed.compare import Difference, ended_elsewhere, ends_differ, facts_differ
from safeloader.distributed.elastic import ElasticDistributedSampler
from safeloader.errors import RanksDisagreeError
from safeloader.lengths import length_of
from safeloader.resume.sampler_state import chain_of

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from safeloader.distributed.store import GroupStore
    from safeloader.loader_face import LoaderFace

__all__ = ["ComparedPass", "RankCheck"]

_WITHIN = 2.0
_KEPT = 4  # passes whose keys stay, for ranks that are behind
_made: Counter[str] = Counter()


class ComparedPass(NamedTuple):
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


class RankCheck:
    """One loader's.

    Args:
        name: The loader's, if the program gave it one.
        face: The loader's.

    Attributes:
        current: The pass that was begun last; None where it is not compared.
    """

    def __init__(self, name: str | None, face: LoaderFace) -> None:
        settings = face.settings
        self.current: ComparedPass | None = None
        self._name = name
        self._face = face
        self._mode = "off" if settings.disable else settings.rank_check
        self._strict = settings.strict
        self._identity = ""
        self._passes: Counter[str] = Counter()
        self._keys: deque[str] = deque()
        self._told = False
        self._owner = os.getpid()

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
        here = group() if self._mode != "off" and os.getpid() == self._owner else None  # a fork is no rank
        if here is None or here[1] == 1:
            return
        dealer = _dealer(loader, *here)
        if dealer is None and not torch_private.is_iterable(loader):
            return
        from safeloader.distributed.store import group_store

        store = group_store()
        if store is None:
            return
        facts, epoch = _facts(loader, dealer, at), str(getattr(dealer, "epoch", self._face.epochs))
        number = "begin"
        if self._passes:
            number = f"{epoch}.{self._passes[epoch]}"
        else:
            facts["epoch"] = epoch
        self._passes[epoch] += 1
        facts = json.loads(json.dumps(facts, default=str))
        self.current = ComparedPass(
            f"compare/{self._identity}/{number}", f"{self._face.name}, epoch {epoch}", here[0], at, store
        )
        other = self._first_of(self.current, "", facts)
        if other is not None:
            told = facts_differ(self.current.where, here[0], facts, other["rank"], other["facts"])
            self._say(told, certain=type(dealer) in (DistributedSampler, ElasticDistributedSampler))

    def ended(self, over: ComparedPass | None, batches: int) -> None:
        """A pass came to its end.

        Args:
            over: The `current` of when it began.
            batches: How far in the epoch.

        Raises:
            RanksDisagreeError: Another rank received another number, and `rank_check` wants an error.
        """
        if over is None:
            return
        other = self._first_of(over, "/end", batches)
        if other is not None and not self._told:
            self._say(ends_differ(over.where, over.rank, batches, other["rank"], other["facts"]))

    def stalled(self, batches: int) -> None:
        """This rank makes no progress: log it if another rank has already ended its pass.

        Args:
            batches: How many this rank has received since the pass began.
        """
        now = self.current
        found = now.store.look([f"{now.key}/end"], _WITHIN) if now is not None else None
        other = _read(found[f"{now.key}/end"]) if now is not None and found else None
        if now is None or other is None:
            return
        told = ended_elsewhere(now.where, now.rank, now.at + batches, other["rank"], other["facts"])
        if told is not None and _fresh(other):
            codes.log_warning("SL132", "%s; try: %s", told.what, told.hint)

    def _first_of(self, now: ComparedPass, suffix: str, facts: Any) -> dict[str, Any] | None:
        """What the first rank wrote under this key; None if this is the first, or the store does not answer."""
        mine = json.dumps({"rank": now.rank, "time": time.time(), "facts": facts}, sort_keys=True, default=str)
        stale, key = b"", now.key + suffix
        while (there := now.store.first(key, mine, _WITHIN, stale)) is not None:
            if there == mine.encode():
                self._keep(now.store, key)
                return None
            found = _read(there)
            if found is None or _fresh(found):
                return found
            stale = there
        _silent(now.store)
        return None

    def _keep(self, store: GroupStore, key: str) -> None:
        self._keys.append(key)
        if len(self._keys) > 2 * _KEPT:
            store.delete(self._keys.popleft())

    def _say(self, told: Difference | None, certain: bool = False) -> None:
        if told is None:
            return
        if self._strict or self._mode == "raise" or (self._mode == "auto" and told.data and certain):
            raise RanksDisagreeError(told.what, hint=told.hint, code="SL131")
        if not self._told:
            self._told = True
            warn("SL131", f"{told.what}. To change it: {told.hint}", stacklevel=5)


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


def _read(value: bytes) -> dict[str, Any] | None:
    """What a rank wrote; None where it is not what the rank check writes."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    known = isinstance(found, dict) and type(found.get("rank")) is int and isinstance(found.get("time"), (int, float))
    return found if known and "facts" in found else None


def _fresh(told: dict[str, Any]) -> bool:
    """Not written by a rank of an earlier start of the group."""
    from safeloader.distributed.store import born

    return bool(told["time"] >= born())


def _silent(store: GroupStore) -> None:
    if not store.silence_told:
        store.silence_told = True
        codes.log_warning(
            "SL133",
            "ranks are not compared, because the store of the process group does not answer: %s",
            store.trouble,
        )
