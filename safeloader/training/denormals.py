"""Denormal numbers: not wrong, but a CPU computes with them ten to a hundred times slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from safeloader import codes
from safeloader.training.scan import dense

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["denormal_share", "tell_new"]

_MANY = 0.1  # share of a tensor
_SAMPLE = 1 << 16  # numbers that a large tensor's share is taken from


def tell_new(known: dict[str, float], named: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Tell the log, once per tensor, of those with many denormal numbers.

    Args:
        known: The share of each that was told; what is new is put in.
        named: The tensors, by name.
    """
    new = {name: share for name, tensor in named if name not in known and (share := denormal_share(tensor)) >= _MANY}
    known |= new
    if new:
        shown = ", ".join(f"{name} ({share:.0%})" for name, share in list(new.items())[:3])
        codes.log_warning(
            "SL148",
            "many denormal numbers in %s%s: a CPU computes with them many times slower. "
            "torch.set_flush_denormal(True) makes them zero; in float16, scale the loss",
            shown,
            f" and {len(new) - 3} more" if len(new) > 3 else "",
        )


def denormal_share(tensor: torch.Tensor) -> float:
    """The share of entries that are denormal: not zero, but smaller than the type's smallest normal number.

    A CPU computes with them ten to a hundred times slower (``torch.set_flush_denormal(True)`` makes them zero). Of a
    large tensor it is that of an even sample; on an accelerator, which they do not slow down, 0.
    """
    tensor = dense(tensor.detach())
    if tensor.numel() == 0 or not tensor.is_floating_point() or tensor.device.type != "cpu":
        return 0.0
    if tensor.numel() > 2 * _SAMPLE and tensor.is_contiguous():
        tensor = tensor.view(-1)[:: tensor.numel() // _SAMPLE | 1]  # odd: through all columns
    size = tensor.abs()
    small = (size > 0) & (size < torch.finfo(tensor.dtype).tiny)
    return float(small.sum()) / tensor.numel()
