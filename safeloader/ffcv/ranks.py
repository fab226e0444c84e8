"""Whether all ranks were given the same: checked through the process group's store, with a deadline.

FFCV does not look: with different seeds two ranks share half their samples without a word. A store is used and no
collective operation, so that a rank that does not come is named and not waited for.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

from safeloader.dist_env import group
from safeloader.errors import RanksDisagreeError, SettingsError

__all__ = ["Ranks", "compare"]

_READ = 10.0  # seconds that a rank waits, before it raises, until the others know why


class Ranks:
    """The ranks of this run.

    Args:
        name: What the loader is called; the same on all ranks.
        timeout: Seconds to wait for the others.

    Attributes:
        rank: This one.
        world_size: How many there are.

    Raises:
        SettingsError: There is no process group.
    """

    _made: dict[str, int] = {}  # noqa: RUF012 - one count a program

    def __init__(self, name: str, timeout: float) -> None:
        here = group()
        if here is None:
            raise SettingsError(
                "distributed=True needs a process group",
                where=name,
                hint="call torch.distributed.init_process_group first (torchrun starts the ranks)",
            )
        self.rank, self.world_size = here
        self._timeout = timeout
        self._name = name
        count = self._made[name] = self._made.get(name, 0) + 1
        self._prefix = f"safeloader/ffcv/{name}/{count}"
        self._asked = 0

    def agree(self, about: str, facts: dict[str, Any]) -> None:
        """Tell one's own facts and compare them with those of all others.

        Args:
            about: What they are about, for the error.
            facts: Plain values.

        Raises:
            RanksDisagreeError: Some differ, or a rank did not come in time; it is named.
        """
        if self.world_size == 1:
            return
        from safeloader.torch_private import default_store

        store = default_store()
        self._asked += 1
        key = f"{self._prefix}/{self._asked}"
        mine = json.dumps({"about": about, **facts}, sort_keys=True, default=str)
        store.set(f"{key}/{self.rank}", mine)
        keys = [f"{key}/{rank}" for rank in range(self.world_size)]
        try:
            store.wait(keys, timedelta(seconds=self._timeout))
        except Exception as reason:
            absent = [rank for rank, name in enumerate(keys) if not store.check([name])]
            if not absent:
                raise
            raise RanksDisagreeError(
                f"rank {', '.join(map(str, absent))} did not come to {about} of {self._name} within "
                f"{self._timeout:g} s; rank {self.rank} waited",
                where=self._name,
                hint="look at that rank's log: it stands still, or its loaders are made in another order",
            ) from reason
        different = compare([json.loads(store.get(name)) for name in keys])
        if different:
            self._see_all_read(store, key)
            raise RanksDisagreeError(
                f"ranks disagree about {about} of {self._name}: {different}",
                where=f"{self._name}, rank {self.rank}",
                hint="give every rank the same file, seed, batch size, order and schedule",
            )
        if self._asked > 1:  # everybody has read what was before
            store.delete_key(f"{self._prefix}/{self._asked - 1}/{self.rank}")

    def _see_all_read(self, store: Any, key: str) -> None:
        """The store lives in rank 0, which is about to end: the others must have read it, to say the same."""
        with suppress(Exception):
            store.set(f"{key}/{self.rank}/read", "")
            store.wait([f"{key}/{rank}/read" for rank in range(self.world_size)], timedelta(seconds=_READ))


def compare(told: list[dict[str, Any]]) -> str:
    """What differs between the ranks, and who stands apart; "" if nothing does."""
    lines = []
    for name in sorted({key for facts in told for key in facts}):
        values = [facts.get(name) for facts in told]
        shown = [json.dumps(value) for value in values]
        usual = max(shown, key=shown.count)
        apart = [f"rank {rank} has {value}" for rank, value in enumerate(shown) if value != usual]
        if apart:
            lines.append(f"{name}: {', '.join(apart[:8])}; the others have {usual}")
    return "; ".join(lines)
