"""Who holds which piece of shared memory: each slot is free, or leased once, or retired.

A lease is a slot *and* a serial number, so that a second return of an old lease cannot free the slot under its new
holder. The slot that came back last is given out first: its pages are warm and the arena stays small.
"""

from __future__ import annotations

from safeloader.core.messages import Lease

__all__ = ["Leases"]


class Leases:
    """A ledger of slots. ``keep`` is how many free slots are worth keeping.

    Args:
        keep: free slots beyond this number are given back to the system.
    """

    __slots__ = ("_free", "_held", "_keep", "_new", "_serial", "retired")

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._free: list[int] = []
        self._held: dict[int, int] = {}
        self._new = 0
        self._serial = 0
        self.retired: set[int] = set()

    def acquire(self) -> Lease:
        """Lease the warmest free slot, or a new one: the arena can always grow."""
        self._serial += 1
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._new
            self._new += 1
        self._held[slot] = self._serial
        return Lease(slot, self._serial)

    def give_back(self, lease: Lease) -> int | None:
        """Free a lease. A lease that is not held (returned twice, or retired) changes nothing.

        Returns:
            A slot whose memory should go back to the system, if more are free than are kept.
        """
        if self._held.get(lease.slot) != lease.serial:
            return None
        del self._held[lease.slot]
        self._free.append(lease.slot)
        if len(self._free) > self._keep:
            coldest = self._free.pop(0)
            self.retired.add(coldest)
            return coldest
        return None

    def retire(self, lease: Lease) -> None:
        """Never use a slot again: a process that could not be killed may still write to it."""
        if self._held.get(lease.slot) == lease.serial:
            del self._held[lease.slot]
            self.retired.add(lease.slot)

    def holds(self, lease: Lease) -> bool:
        """True while this very lease is out."""
        return self._held.get(lease.slot) == lease.serial

    @property
    def held(self) -> int:
        return len(self._held)

    def validate(self) -> None:
        """Raise AssertionError unless each slot is in exactly one place."""
        free, held = set(self._free), set(self._held)
        assert len(free) == len(self._free), "a slot is free twice"
        assert len(free) + len(held) + len(self.retired) == len(free | held | self.retired), "a slot is in two places"
        assert free | held | self.retired == set(range(self._new)), "a slot is lost"
