"""Torch's ambient state (modes, devices, precisions, flags): what of it is private is touched here and nowhere else.

Parity tests: ``tests/runtime/test_isolation.py``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

PRECISION: tuple[Any, ...]
_PRECISIONS = (  # each inherits from those before it, so they are set in this order
    *(("generic", "all"), ("cuda", "all"), ("mkldnn", "all")),
    *((backend, op) for backend in ("cuda", "mkldnn") for op in ("matmul", "conv", "rnn")),
)
if hasattr(torch._C, "_get_fp32_precision_getter"):  # torch 2.9
    PRECISION = ("highest", "none", "none", "none", "none", "tf32", "tf32", "none", "none", "none")
else:
    PRECISION = ("highest", False, True)
"""What ``precision`` is in a new process."""

PRINTING = (4, 1000, 3, 80, None)
"""What ``print_options`` are in a new process."""


def set_grad_enabled(enabled: bool) -> None:
    """Turn gradients on or off, and leave no object behind."""
    torch._C._set_grad_enabled(enabled)


def enter_inference_mode(enabled: bool) -> Any:
    """Turn inference mode on or off. Returns what ``leave_inference_mode`` takes."""
    guard: Any = torch._C._InferenceMode(enabled)
    guard.__enter__()
    return guard


def leave_inference_mode(guard: Any) -> None:
    """Put back what was before, gradients and the keys of autocast included."""
    guard.__exit__(None, None, None)


def autocast_devices() -> tuple[str, ...]:
    """The types of devices that have autocast."""
    if hasattr(torch._C, "_autocast_supported_devices"):
        return tuple(torch._C._autocast_supported_devices())
    return "cpu", "cuda"


def any_autocast() -> bool:
    """False if autocast is surely off on all kinds of devices."""
    known = getattr(torch._C, "_is_any_autocast_enabled", None)
    return True if known is None else bool(known())


def inside_autocast() -> bool:
    """True within a ``with torch.autocast(...)``."""
    torch.autocast_increment_nesting()
    return bool(torch.autocast_decrement_nesting() > 0)


def function_modes() -> tuple[Any, ...]:
    """The active ``TorchFunctionMode``s, outermost first; a default device is one."""
    count = torch._C._len_torch_function_stack()
    return tuple([torch._C._get_function_stack_at(i) for i in range(count)]) if count else ()


def put_function_modes(modes: tuple[Any, ...]) -> None:
    """Make these the active ones."""
    for _ in range(torch._C._len_torch_function_stack()):
        torch._C._pop_torch_function_stack()
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)


def dispatch_modes() -> tuple[Any, ...]:
    """The active ``TorchDispatchMode``s, outermost first."""
    count = torch._C._len_torch_dispatch_stack()
    return tuple([torch._C._get_dispatch_stack_at(i) for i in range(count)]) if count else ()


def put_dispatch_modes(modes: tuple[Any, ...]) -> None:
    """Make these the active ones."""
    while torch._C._len_torch_dispatch_stack():
        torch._C._pop_torch_dispatch_stack(None)
    for mode in modes:
        torch._C._push_on_torch_dispatch_stack(mode)


def default_device() -> tuple[Any, Any]:
    """What torch remembers of the default device besides the mode that applies it."""
    device = sys.modules.get("torch.utils._device")
    known = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return (None if device is None else device.CURRENT_DEVICE), known


def put_default_device(to: tuple[Any, Any]) -> None:
    """Make torch remember this."""
    device = sys.modules.get("torch.utils._device")
    if device is not None:
        device.CURRENT_DEVICE = to[0]  # type: ignore[attr-defined]
    torch._GLOBAL_DEVICE_CONTEXT.device_context = to[1]


def precision() -> tuple[Any, ...]:
    """How exactly float32 matrices are multiplied, by operation and backend."""
    legacy: Any = None
    try:
        legacy = torch._C._get_float32_matmul_precision()
    except RuntimeError:  # the newer names for it were used, in a way that the older ones have no word for
        pass
    if len(PRECISION) == 3:
        return legacy, torch._C._get_cublas_allow_tf32(), torch._C._get_cudnn_allow_tf32()
    get = torch._C._get_fp32_precision_getter
    return legacy, *[get(*place) for place in _PRECISIONS]


def put_precision(to: tuple[Any, ...]) -> None:
    """Set it again."""
    if len(PRECISION) == 3:
        torch._C._set_cublas_allow_tf32(to[1])  # which sets the next but one as well, to "high" or "highest"
        torch._C._set_cudnn_allow_tf32(to[2])
        torch._C._set_float32_matmul_precision(to[0])
        return
    now = precision()
    if to[0] is not None and now[0] != to[0]:
        torch._C._set_float32_matmul_precision(to[0])
    for place, wanted in zip(_PRECISIONS, to[1:], strict=True):
        if torch._C._get_fp32_precision_getter(*place) != wanted:
            torch._C._set_fp32_precision_setter(*place, wanted)


def print_options() -> tuple[Any, ...]:
    """How tensors are shown."""
    options = torch._tensor_str.PRINT_OPTS
    return options.precision, options.threshold, options.edgeitems, options.linewidth, options.sci_mode


def put_print_options(to: tuple[Any, ...]) -> None:
    """Show tensors so."""
    options = torch._tensor_str.PRINT_OPTS
    options.precision, options.threshold, options.edgeitems, options.linewidth, options.sci_mode = to


def flag(get: str, put: str) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """The functions of these names that read and set a flag of torch's; None where this torch lacks one."""
    found = getattr(torch._C, get, None), getattr(torch._C, put, None)
    return None if found[0] is None or found[1] is None else (found[0], found[1])
