"""torch's ambient states: those that change the bytes of a sample, and those that a worker may leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.backends import opt_einsum  # torch 2.5 imports it at the first use of einsum

from safeloader import torch_ambient
from safeloader.runtime.isolation.state import Surrounding

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["torch_states"]

_FLAGS: dict[str, Any] = {  # torch._C._get_*, torch._C._set_*, and what a new process has
    "cudnn_enabled": True,
    "cudnn_benchmark": False,
    "cudnn_deterministic": False,
    "mkldnn_enabled": True,
    "mkldnn_deterministic": False,
    "nnpack_enabled": True,
    "cpu_allow_fp16_reduced_precision_reduction": False,
    "cublas_allow_fp16_accumulation": False,
    "math_sdp_allow_fp16_bf16_reduction": False,
    "warnAlways": False,
}
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")
_DTYPES = {"cpu": torch.bfloat16, "cuda": torch.float16}  # of autocast, in a new process
_SMALLEST = 5e-324  # false where denormal numbers count as zero


def torch_states() -> list[Surrounding]:
    """All that this torch has."""
    private, sharing = torch_ambient, torch.multiprocessing
    return [
        Surrounding("gradients", torch.is_grad_enabled, private.set_grad_enabled, "clean", clean=True),
        _autocast(),
        Surrounding("cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, "derived", _uncached),
        Surrounding("default dtype", torch.get_default_dtype, torch.set_default_dtype, "clean", torch.float32),
        Surrounding("function modes", private.function_modes, private.put_function_modes, "clean", ()),
        Surrounding("dispatch modes", private.dispatch_modes, private.put_dispatch_modes, "clean", ()),
        Surrounding("default device", private.default_device, private.put_default_device, "clean", (None, None)),
        Surrounding("threads of torch", torch.get_num_threads, torch.set_num_threads, "clean", 1),
        Surrounding("deterministic algorithms", _deterministic, _put_deterministic, "clean", (False, False, True)),
        Surrounding("anomaly mode", _anomaly, lambda to: torch.set_anomaly_enabled(*to), "clean", (False, True)),
        Surrounding("matmul precision", private.precision, private.put_precision, "clean", private.PRECISION),
        Surrounding(
            "denormal numbers", lambda: bool(_SMALLEST), lambda to: torch.set_flush_denormal(not to), "clean", True
        ),
        Surrounding(
            "print options of torch", private.print_options, private.put_print_options, "clean", private.PRINTING
        ),
        *_einsum(),
        Surrounding("fast path of attention", _fast_path, torch.backends.mha.set_fastpath_enabled, "clean", clean=True),
        Surrounding("sharing strategy", sharing.get_sharing_strategy, sharing.set_sharing_strategy),
        Surrounding("accelerator", _current_device, _put_current_device),
        _flags(),
    ]  # fmt: skip


def _flags() -> Surrounding:
    """Flags of torch's that are on or off."""
    found = [
        *((f"_get_{name}", f"_set_{name}", clean) for name, clean in _FLAGS.items()),
        *((f"_get_{name}_sdp_enabled", f"_set_sdp_use_{name}", True) for name in _ATTENTION),
    ]
    here = [(flag, clean) for get, put, clean in found if (flag := torch_ambient.flag(get, put)) is not None]
    gets, puts = [get for (get, _), _ in here], [put for (_, put), _ in here]
    clean = [clean for _, clean in here]
    return Surrounding("flags of torch", lambda: [get() for get in gets], _putting(puts), "clean", clean)


def _putting(puts: list[Callable[[Any], object]]) -> Callable[[list[Any]], None]:
    def put(to: list[Any]) -> None:
        for one, value in zip(puts, to, strict=True):
            one(value)

    return put


def _autocast() -> Surrounding:
    """Whether it is on, and for which type, on each kind of device."""
    devices = torch_ambient.autocast_devices()
    enabled, dtype, anywhere = torch.is_autocast_enabled, torch.get_autocast_dtype, torch_ambient.any_autocast

    def get() -> tuple[list[str], list[torch.dtype]]:
        return [one for one in devices if enabled(one)] if anywhere() else [], [dtype(one) for one in devices]

    def put(to: tuple[list[str], list[torch.dtype]]) -> None:
        for device, wanted in zip(devices, to[1], strict=True):
            torch.set_autocast_enabled(device, device in to[0])
            torch.set_autocast_dtype(device, wanted)

    clean: Any = [], [_DTYPES.get(device) or dtype(device) for device in devices]
    return Surrounding("autocast", get, put, "clean", clean)


def _uncached(enabled: bool) -> bool:
    """Off in a worker where the trainer is inside of ``autocast``: else both would share what is cached."""
    return not torch_ambient.inside_autocast()


def _deterministic() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )


def _put_deterministic(to: tuple[bool, bool, bool]) -> None:
    torch.use_deterministic_algorithms(to[0], warn_only=to[1])
    torch.utils.deterministic.fill_uninitialized_memory = to[2]  # type: ignore[attr-defined]


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _fast_path() -> bool:
    return torch.backends.mha.get_fastpath_enabled()


def _einsum() -> list[Surrounding]:
    einsum: Any = opt_einsum
    if not einsum.is_available():
        return []
    put: Callable[[Any], object] = lambda to: einsum.set_flags(*to)  # noqa: E731
    return [Surrounding("einsum", lambda: (einsum.enabled, einsum.strategy), put, "clean", (True, "auto"))]


def _current_device() -> int | None:
    there: Any = torch.cuda.is_initialized
    return torch.cuda.current_device() if there() else None


def _put_current_device(to: int | None) -> None:
    if to is not None:
        torch.cuda.set_device(to)
