"""Going on with another learning rate: optimizer and schedule are changed together, in proportion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from safeloader.errors import CheckpointError
from safeloader.training.parts import innermost

__all__ = ["Rate", "differing", "set_rates"]

Rate = float | Sequence[float] | Callable[[float], float]
_SCALED = ("lr", "initial_lr", "max_lr", "min_lr")  # of a group: the last three are schedulers'
_LISTS = ("base_lrs", "max_lrs", "min_lrs", "_last_lr")  # of a scheduler


def differing(name: str, here: torch.optim.Optimizer, saved: Mapping[str, Any]) -> list[str]:
    """What an optimizer was built with here and will not have, in words: the saved values are put over them."""
    notes = []
    for number, (mine, theirs) in enumerate(zip(here.param_groups, saved["param_groups"], strict=False)):
        cycled = {"momentum", "betas"} if "max_momentum" in theirs else set()  # by the scheduler, with each step
        for key in sorted(set(mine) & set(theirs) - {"params", *_SCALED} - cycled):
            if _plain(mine[key]) != _plain(theirs[key]) and isinstance(_plain(mine[key]), (int, float, tuple, list)):
                notes.append(_note(name, number, key, mine[key], theirs[key], ""))
        rates = [float(group.get("initial_lr", group["lr"])) for group in (mine, theirs)]
        if rates[0] != rates[1]:
            hint = "; resume(..., learning_rate=...) changes it"
            notes.append(_note(name, number, "learning rate", rates[0], rates[1], hint))
    return notes


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _note(name: str, number: int, key: str, mine: Any, theirs: Any, hint: str) -> str:
    return f"{name}, group {number}: {key} {theirs} of the checkpoint is used, not {mine} as it was built here{hint}"


def set_rates(parts: Mapping[str, Any], wanted: Rate | Mapping[str, Rate]) -> list[str]:
    """Set the rate of each optimizer, and scale what its schedulers go by.

    Args:
        parts: Optimizers and schedulers among others, as they were resumed.
        wanted: The rate from now on; one a group; or a function of the present rate. By part, where there are several.

    Returns:
        What was changed, in words.

    Raises:
        CheckpointError: There is no such optimizer, or not so many groups, or no such rate.
    """
    inner = {name: innermost(part) for name, part in parts.items()}
    optimizers = {name: part for name, part in inner.items() if isinstance(part, torch.optim.Optimizer)}
    by_name = wanted if isinstance(wanted, Mapping) else dict.fromkeys(optimizers, wanted)
    unknown = [name for name in by_name if name not in optimizers]
    if unknown or not by_name:
        raise CheckpointError(
            f"learning_rate is given for {', '.join(unknown) or 'no optimizer'}; there are "
            f"{', '.join(optimizers) or 'no optimizers'} among the parts"
        )
    notes: list[str] = []
    for name, rate in by_name.items():
        factors = _factors(name, optimizers[name], rate, notes)
        schedulers = [part for part in inner.values() if getattr(part, "optimizer", None) is optimizers[name]]
        for scheduler in schedulers:
            _scale_scheduler(scheduler, factors)
        _scale_groups(optimizers[name], factors)
        if not schedulers:
            notes.append(f"{name}: no scheduler was given; one that steps it elsewhere still goes by its own rates")
    return notes


def _factors(name: str, optimizer: torch.optim.Optimizer, rate: Rate, notes: list[str]) -> list[float]:
    groups = optimizer.param_groups
    rates = rate if isinstance(rate, Sequence) else [rate] * len(groups)
    if len(rates) != len(groups):
        raise CheckpointError(f"learning_rate has {len(rates)} rates, and {name} has {len(groups)} groups")
    factors = []
    for number, (group, one) in enumerate(zip(groups, rates, strict=True)):
        before = float(group["lr"]) or float(group.get("initial_lr", 0.0))
        now = float(one(before)) if callable(one) else float(one)
        if not math.isfinite(now) or now < 0 or (before == 0.0 and now > 0):
            raise CheckpointError(f"learning rate {now} of {name}, group {number}, cannot be set in place of {before}")
        factors.append(now / before if before else 1.0)
        notes.append(f"{name}, group {number}: learning rate {now:g} in place of {before:g} of the checkpoint")
    return factors


def _scale_groups(optimizer: torch.optim.Optimizer, factors: list[float]) -> None:
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        for key in _SCALED:
            if isinstance(group.get(key), torch.Tensor):
                group[key].mul_(factor)
            elif key in group:
                group[key] *= factor


def _scale_scheduler(scheduler: Any, factors: list[float]) -> None:
    for name in _LISTS:
        values = getattr(scheduler, name, None)
        if isinstance(values, list) and len(values) == len(factors):
            setattr(scheduler, name, [value * factor for value, factor in zip(values, factors, strict=True)])
    for inner in getattr(scheduler, "_schedulers", ()):
        _scale_scheduler(inner, factors)
