"""The few calls of CUDA's driver that pinned slots need: an error of the runtime's would come up in torch, later.

Source: CUDA Driver API, "Context Management", "Memory Management", "Event Management"; `cuCtxRecordEvent` is there
since CUDA 12.5.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections import defaultdict
from ctypes import byref, c_int, c_size_t, c_uint, c_void_p
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CudaDriver", "Event", "NotPossible"]

_NEEDED = 12050
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: pinned for all devices
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_NOT_READY = 600  # CUDA_ERROR_NOT_READY


class NotPossible(Exception):
    """The driver cannot do what is needed; the message says why."""


class Event(NamedTuple):
    """One event of a context."""

    context: int
    handle: int


class CudaDriver:
    """The driver of this process.

    Args:
        device: number of the device whose context registers memory; that context is made if nobody has.

    Raises:
        NotPossible: there is no driver, or one older than CUDA 12.5.
    """

    def __init__(self, device: int) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NotPossible(str(error)) from error
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        if version.value < _NEEDED:
            raise NotPossible(
                f"the driver is of CUDA {version.value // 1000}.{version.value % 1000 // 10}, older than 12.5"
            )
        count = c_int()
        self._call("cuDeviceGetCount", byref(count))
        self._contexts: dict[int, int] = {}  # by device; never released, as torch keeps its own for ever
        self._spare: defaultdict[int, list[Event]] = defaultdict(list)
        self._devices = range(count.value)
        self._main = self._context(device)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise NotPossible(f"{name} says {code}")

    def _context(self, device: int) -> int:
        if device not in self._contexts:
            context = c_void_p()
            self._call("cuDevicePrimaryCtxRetain", byref(context), c_int(device))
            self._contexts[device] = context.value or 0
        return self._contexts[device]

    def _within(self, context: int, name: str, *arguments: object) -> None:
        """Call with a context as the current one, whatever the thread's is."""
        self._call("cuCtxPushCurrent_v2", c_void_p(context))
        try:
            with self._beside_captures():
                self._call(name, *arguments)
        finally:
            self._library.cuCtxPopCurrent_v2(byref(c_void_p()))

    @contextlib.contextmanager
    def _beside_captures(self) -> Iterator[None]:
        """Calls in here that have nothing to do with a graph that is being captured leave it whole."""
        mode = c_int(_RELAXED)
        self._library.cuThreadExchangeStreamCaptureMode(byref(mode))
        try:
            yield
        finally:
            self._library.cuThreadExchangeStreamCaptureMode(byref(mode))

    def register(self, address: int, nbytes: int) -> None:
        """Pin memory where it lies: its pages stay, and devices copy from it by themselves."""
        self._within(self._main, "cuMemHostRegister_v2", c_void_p(address), c_size_t(nbytes), c_uint(_PORTABLE))

    def unregister(self, address: int) -> None:
        """Let pinned memory go."""
        self._within(self._main, "cuMemHostUnregister", c_void_p(address))

    def letting_go(self, address: int) -> list[Callable[[], int]]:
        """The calls that let pinned memory go, each into C; they wait for copies out of it."""
        return [
            functools.partial(self._library.cuCtxPushCurrent_v2, c_void_p(self._main)),
            functools.partial(self._library.cuMemHostUnregister, c_void_p(address)),
            functools.partial(self._library.cuCtxPopCurrent_v2, byref(c_void_p())),
        ]

    def active(self) -> list[int]:
        """The contexts of the devices that this process uses by now."""
        for device in self._devices:
            if device not in self._contexts:
                flags, active = c_uint(), c_int()
                self._call("cuDevicePrimaryCtxGetState", c_int(device), byref(flags), byref(active))
                if active.value:
                    self._context(device)
        return list(self._contexts.values())

    def event(self, context: int) -> Event:
        """An event that nobody uses."""
        with contextlib.suppress(IndexError):
            return self._spare[context].pop()
        handle = c_void_p()
        self._within(context, "cuEventCreate", byref(handle), c_uint(_NO_TIMING))
        return Event(context, handle.value or 0)

    def use_again(self, events: list[Event]) -> None:
        """Nobody asks for these any more."""
        for event in events:
            self._spare[event.context].append(event)

    def record(self, event: Event) -> None:
        """Have an event stand for all that its context was given so far, on any stream."""
        self._call("cuCtxRecordEvent", c_void_p(event.context), c_void_p(event.handle))

    def has_passed(self, event: Event) -> bool:
        """Whether all that an event stands for is done. A context that is broken does nothing any more."""
        with self._beside_captures():
            return bool(self._library.cuEventQuery(c_void_p(event.handle)) != _NOT_READY)
