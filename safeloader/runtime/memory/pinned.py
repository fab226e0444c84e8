"""Slots that are pinned where they lie, so that a batch needs no copy to be pinned, and no thread for it.

torch lends its own pinned memory again once the copies out of it are done: each copy notes an event. It does not for
memory that somebody else has pinned. So when the consumer has let go of a batch, an event is recorded that stands
for all that the devices were given so far, on any stream, and the lease is back when that has passed::

    last view dies ──▶ event of everything begun so far ──▶ passed ──▶ the lease may be used again

Memory is registered at most once a slot, until a batch is larger. What is registered must not be unmapped, nor its
pages be given back, before it is unregistered: the devices would go on with the old ones.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch

from safeloader import clock, codes
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.memory.cuda_driver import CudaDriver, NotPossible

if TYPE_CHECKING:
    from safeloader.core.messages import Lease
    from safeloader.runtime.memory.cuda_driver import Event
    from safeloader.runtime.memory.mapping import Mapping

__all__ = ["PinnedArena", "PinnedSlots", "made_for"]

_GRAIN = 1 << 21
_PATIENCE = 10.0  # seconds for what devices still copy when the loader closes


class _Slot(NamedTuple):
    mapping: Mapping
    nbytes: int


class _Flight(NamedTuple):
    events: list[Event]
    leases: list[Lease]


class PinnedSlots:
    """One loader's slots, as far as they are pinned, and the copies out of them that may be under way.

    Args:
        driver: CUDA's driver.
        name: of the loader, for the log.
    """

    def __init__(self, driver: CudaDriver, name: str) -> None:
        self._driver = driver
        self._name = name
        self._works = True
        self._slots: dict[int, _Slot] = {}
        self._flights: deque[_Flight] = deque()
        self._returned: deque[Lease] = deque()
        self._landed: deque[Lease] = deque()

    def watch(self, returned: deque[Lease]) -> None:
        """Know the leases whose last view is dead."""
        self._returned = returned

    # ------------------------------------------------------------ slots

    def pin(self, slot: int, mapping: Mapping, nbytes: int) -> None:
        """Pin the first ``nbytes`` of a slot that a batch was written to. Where that fails, batches are copied."""
        known = self._slots.get(slot)
        if known is not None and known.mapping is mapping and known.nbytes >= nbytes:
            return
        self.release(slot)
        if not self._works:
            return
        room = min(-(-nbytes * 5 // 4 // _GRAIN) * _GRAIN, mapping.length)
        # Before, so that whatever interrupts leaves no pinned memory that is unmapped.
        mapping.before_unmap.extend(self._driver.letting_go(mapping.address))
        self._slots[slot] = _Slot(mapping, room)
        try:
            self._driver.register(mapping.address, room)
        except NotPossible as reason:
            self._works = False
            self._forget(slot)
            _tell(self._name, reason)

    def release(self, slot: int) -> None:
        """A slot's memory is about to go, or to grow: nobody sees it any more, and nothing is copied out of it."""
        if slot in self._slots:
            with contextlib.suppress(NotPossible):  # an interrupt came before it was registered
                self._driver.unregister(self._slots[slot].mapping.address)
            self._forget(slot)

    def _forget(self, slot: int) -> None:
        self._slots[slot].mapping.before_unmap.clear()
        del self._slots[slot]

    # ------------------------------------------------------------ copies

    @property
    def is_waiting(self) -> bool:
        """Whether there are leases that `land` may give."""
        return bool(self._flights or self._landed)

    @property
    def waiting(self) -> list[Lease]:
        """Those leases."""
        return [*(lease for flight in self._flights for lease in flight.leases), *self._landed]

    def land(self) -> deque[Lease]:
        """The leases whose last view is dead, and whose memory no device reads any more.

        Whoever takes them out of the queue does so when the core knows them. If interrupted, some may come twice.
        """
        with contextlib.suppress(NotPossible):  # a graph is being captured: next time
            self._take_off()
        while self._flights and all(map(self._driver.has_passed, self._flights[0].events)):
            self._landed.extend(self._flights[0].leases)
            self._driver.use_again(self._flights.popleft().events)
        return self._landed

    def _take_off(self) -> None:
        if not self._returned or torch.cuda.is_current_stream_capturing():
            return
        leases = list(self._returned)
        self._flights.append(_Flight([self._recorded(context) for context in self._driver.active()], leases))
        for _ in leases:
            self._returned.popleft()

    def _recorded(self, context: int) -> Event:
        event = self._driver.event(context)
        self._driver.record(event)
        return event

    # ------------------------------------------------------------ the end

    def _is_read(self) -> bool:
        self.land()
        return bool(self._returned or self._flights)

    def close(self) -> None:
        """Wait for copies out of batches that nobody holds; memory is let go with its last view."""
        end = clock.now() + _PATIENCE
        while self._is_read() and clock.now() < end:
            time.sleep(0.001)
        stuck = {lease.slot for flight in self._flights for lease in flight.leases}
        _left.extend(self._slots[slot].mapping for slot in stuck if slot in self._slots)  # to wait would be for ever
        self._slots.clear()


class PinnedArena(Arena):
    """The trainer's view of slots that are pinned as they are used.

    Args:
        pinned: which of them are.
        slots: as `Arena`'s.
    """

    def __init__(self, pinned: PinnedSlots, slots: int) -> None:
        super().__init__(slots=slots)
        self._pinned = pinned
        self._owner = os.getpid()

    def map(self, slot: int, nbytes: int) -> Mapping:
        """As `Arena`'s, and pinned."""
        mapping = super().map(slot, nbytes)
        self._pinned.pin(slot, mapping, nbytes)
        return mapping

    def free(self, slot: int) -> None:
        """As `Arena`'s: no device refers to the pages that go."""
        self._pinned.release(slot)
        super().free(slot)

    def close(self) -> None:
        """As `Arena`'s. A fork of the trainer has no device."""
        if os.getpid() == self._owner and self.descriptor >= 0:
            self._pinned.close()
        super().close()


_left: list[Mapping] = []  # a device that hangs may still read them


@functools.cache
def _driver() -> CudaDriver:
    """One for all loaders; where it is not possible, each asks again."""
    return CudaDriver(torch.cuda.current_device())


def _tell(name: str, reason: NotPossible) -> None:
    codes.log_warning(
        "SL157", "%s: batches are copied into pinned memory, as they cannot be pinned in place: %s", name, reason
    )


def made_for(name: str, device: str | None) -> PinnedSlots | None:
    """Pinned slots for a loader; None, with a line in the log, where there is no CUDA that can do it.

    Args:
        name: of the loader.
        device: torch's ``pin_memory_device``.
    """
    try:
        if not torch.cuda.is_available() or torch.version.cuda is None or not (device or "cuda").startswith("cuda"):
            raise NotPossible("there is no CUDA device")
        return PinnedSlots(_driver(), name)
    except NotPossible as reason:
        _tell(name, reason)
        return None
