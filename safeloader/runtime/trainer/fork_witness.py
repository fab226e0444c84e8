"""Whether a fork of the trainer still lives."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
from typing import TYPE_CHECKING

from safeloader.runtime import system
from safeloader.runtime.memory.mapping import MAP_FAILED
from safeloader.runtime.system import libc

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Witness"]

_F_ADD_SEALS, _F_SEAL_WRITE = 1033, 0x0008


class Witness:
    """Tells the process that made it whether a fork of it, or a fork of that, still lives (and has not called exec).

    It is a page of a memory file, mapped writable before the fork and unmapped in the parent after it. The kernel
    refuses to seal a file against writing while anybody has it mapped so: nothing that a fork closes can hide it.
    Elsewhere it is a pipe whose writing end the forks hold. What cannot be made never says that the forks are gone.
    """

    __slots__ = ("_address", "_reader", "_writer")

    def __init__(self) -> None:
        self._reader = self._writer = -1
        self._address = 0
        try:
            if system.HAS_MEMFD:
                self._reader = system.memory_file("witness")
                os.ftruncate(self._reader, mmap.PAGESIZE)
                protection = mmap.PROT_READ | mmap.PROT_WRITE
                address = libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_SHARED, self._reader, 0)
                if address is None or address == MAP_FAILED:
                    raise OSError(ctypes.get_errno(), "cannot map a page")
                self._address = int(address)
            else:
                self._reader, self._writer = os.pipe()
        except OSError:
            self._close()

    def made(self) -> None:
        """The fork is made; for the parent to call."""
        if self._address:
            libc.munmap(self._address, mmap.PAGESIZE)
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def gone(self) -> bool:
        """True once no fork is left that was made with this witness."""
        if self._reader < 0:
            return False
        try:
            if self._address:
                fcntl.fcntl(self._reader, _F_ADD_SEALS, _F_SEAL_WRITE)
                return True
            poller = select.poll()
            poller.register(self._reader, select.POLLIN)
            return bool(poller.poll(0))
        except OSError:
            return False

    def _close(self, close: Callable[[int], None] = os.close) -> None:  # at the interpreter's end `os` is empty
        if self._reader >= 0:
            close(self._reader)
            self._reader = -1

    def __del__(self) -> None:
        self._close()
