"""Ambient states on which samples depend, as readings that can be compared: whether a worker's samples change them."""

from __future__ import annotations

import decimal
import functools
from typing import TYPE_CHECKING, Any

import torch

from safeloader.runtime.isolation.own_states import states

if TYPE_CHECKING:
    from safeloader.runtime.isolation.state import Surrounding

__all__ = ["lasting", "late"]

_LASTING = frozenset(
    {"folder", "time zone", "umask", "limit of recursion", "digits of integers", "error state of numpy"}
    | {"print options of numpy", "print options of torch", "gradients", "autocast", "default dtype", "function modes"}
    | {"dispatch modes", "default device", "threads of torch", "deterministic algorithms", "matmul precision"}
    | {"denormal numbers", "einsum", "fast path of attention", "flags of torch", "OpenCV"}
)
_LATE = frozenset({"environment", "locale"})


def lasting() -> Any:
    """What only the program's own code changes."""
    numbers = decimal.getcontext()  # its flags tell only what was computed
    own = numbers.prec, numbers.rounding, numbers.Emin, numbers.Emax, numbers.clamp, dict(numbers.traps)
    return own, torch.is_inference_mode_enabled(), [state.read() for state in _named(_LASTING)]


def late() -> Any:
    """What packages change as well when they are imported, which may be with a worker's first sample."""
    return [state.read() for state in _named(_LATE)]


@functools.cache
def _named(names: frozenset[str]) -> list[Surrounding]:
    return [state for state in states() if state.name in names]
