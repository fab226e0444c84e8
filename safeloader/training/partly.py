"""Resuming a model that has grown or shrunk since: what fits is put back, and all else is listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from safeloader.training.parts import innermost

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["fitting"]


def fitting(parts: Mapping[str, Any], states: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The states of parts, made to fit, and what is new or left out, in words.

    Args:
        parts: What is to be resumed.
        states: Their saved states; plain values as `to_values` gives them.
    """
    made, notes = dict(states), list[str]()
    models = {n: m for n, part in parts.items() if isinstance(m := innermost(part), torch.nn.Module)}
    for name, model in models.items():
        made[name] = _model(name, model.state_dict(), states[name], notes)
    for name, part in parts.items():
        inner = innermost(part)
        if isinstance(inner, torch.optim.Optimizer):
            made[name] = _optimizer(name, inner, states[name], models, states, notes)
        elif isinstance(states.get(name), dict) and isinstance(getattr(inner, "base_lrs", None), list):
            made[name] = _scheduler(name, inner, states[name], notes)
    return made, notes


def _model(name: str, here: Mapping[str, Any], saved: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    kept = {key: value for key, value in saved.items() if key in here and _shape(here[key]) == _shape(value)}
    new = [key for key in here if key not in saved]
    gone = [key for key in saved if key not in here]
    other = [key for key in here if key in saved and key not in kept]
    for what, keys in (
        ("new, as it was built", new),
        ("left out, the model has none", gone),
        ("left out, of another shape", other),
    ):
        if keys:
            notes.append(f"{name}: {what}: {', '.join(keys)}")
    return {**here, **kept}


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _optimizer(
    name: str,
    optimizer: torch.optim.Optimizer,
    saved: Mapping[str, Any],
    models: Mapping[str, torch.nn.Module],
    states: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """The saved state by parameter: where the groups differ, the parameters are found by their names in the models."""
    mine: dict[str, Any] = optimizer.state_dict()
    here = [p for group in optimizer.param_groups for p in group["params"]]
    if [len(g["params"]) for g in mine["param_groups"]] == [len(g["params"]) for g in saved["param_groups"]]:
        places = dict(enumerate(range(len(here))))
    else:
        found = _by_name(here, saved, models, states)
        if found is None:
            notes.append(f"{name}: its parameters cannot be told apart from those of the checkpoint: it begins anew")
            return mine
        places = found
    state = {}
    for was, now in places.items():
        kept = saved["state"].get(was)
        if kept is not None and _fits(kept, here[now]):
            state[now] = kept
    fresh = len(here) - len(state) if saved["state"] else 0
    if fresh:
        notes.append(f"{name}: {fresh} of {len(here)} parameters begin with no history")
    groups = [dict(group) for group in mine["param_groups"]]
    for group, before in zip(groups, saved["param_groups"], strict=False):
        group.update({key: value for key, value in before.items() if key != "params"})
    return {**mine, "state": state, "param_groups": groups}


def _by_name(
    here: list[torch.Tensor], saved: Mapping[str, Any], models: Mapping[str, torch.nn.Module], states: Mapping[str, Any]
) -> dict[int, int] | None:
    """Saved number of each parameter to its number here; None if the checkpoint does not say which is which."""
    now = {id(parameter): number for number, parameter in enumerate(here)}
    for model_name, model in models.items():
        parameters = dict(model.named_parameters())
        buffers = {name for name, _ in model.named_buffers()}
        saved_model = states[model_name]
        names = [key for key, value in saved_model.items() if key not in buffers and _shape(value) is not None]
        if len(names) != sum(len(group["params"]) for group in saved["param_groups"]):
            continue
        kept = [(n, name) for n, name in enumerate(names) if name in parameters and id(parameters[name]) in now]
        return {number: now[id(parameters[name])] for number, name in kept}
    return None


def _fits(state: Any, parameter: torch.Tensor) -> bool:
    """Whether a parameter's history has its shape."""
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor) and value.dim() > 0]
    return all(value.shape == parameter.shape for value in tensors)


def _scheduler(name: str, scheduler: Any, saved: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    made = dict(saved)
    for key in ("base_lrs", "_last_lr", "max_lrs", "min_lrs"):
        mine, theirs = getattr(scheduler, key, None), saved.get(key)
        if isinstance(mine, list) and isinstance(theirs, list) and len(mine) != len(theirs):
            made[key] = [*theirs[: len(mine)], *mine[len(theirs) :]]
            if key == "base_lrs":
                notes.append(f"{name}: {len(theirs)} groups in the checkpoint, {len(mine)} here: new ones as built")
    return made
