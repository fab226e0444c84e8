"""Checkpoints that others wrote, as `resume` takes them: a plain state dict, in memory or in a file of any kind.

Nothing in a file is executed. Of a whole pickled model, as Ultralytics saves it, the tensors are taken.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from safeloader.errors import CheckpointError
from safeloader.training import collectives
from safeloader.training.checkpoint import Checkpoint, Saved, refusal
from safeloader.training.looking import Looked, content_of
from safeloader.training.parts import innermost
from safeloader.training.scan import not_finite
from safeloader.training.unpickling import Stub

__all__ = ["adopted"]

_NAMES = {
    "model": ("state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights", "model"),
    "optimizer": ("optimizer_state_dict", "optimizer_state", "optimizer", "optim", "optimizer_states"),
    "scheduler": ("scheduler_state_dict", "lr_scheduler", "scheduler", "lr_schedulers", "lr_scheduler_state_dict"),
}
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def adopted(
    source: Path | Mapping[str, Any], parts: Mapping[str, Any], may_be_infinite: Iterable[str]
) -> tuple[Saved, list[str]]:
    """What of a foreign checkpoint goes to which part, and what of it goes nowhere, in words.

    Args:
        source: A file, a folder of torch.distributed.checkpoint, or what was loaded from one.
        parts: What is to get a state.
        may_be_infinite: Patterns of names in which infinities are meant.

    Raises:
        CheckpointError: It cannot be read, or holds no state of a part.
        NonFiniteError: It holds NaN or infinity.
    """
    looked = Looked(Path("a state dict") if isinstance(source, Mapping) else source)
    content = source if isinstance(source, Mapping) else _read(looked)
    notes: list[str] = []
    states = {name: state for name, part in parts.items() if (state := _state_for(name, part, content, parts, notes))}
    bad = not_finite(states, may_be_infinite)
    step = next((int(n) for n in (looked.step, looked.epoch) if isinstance(n, (int, float))), 0)
    if bad:
        raise refusal(bad, step)
    found = Checkpoint(
        path=looked.path, run="", step=step, serial=0, id="", metric=looked.metric,
        world_size=collectives.world_size(), torch=torch.__version__, time=time.time(),
    )  # fmt: skip
    alone = {"generators": None, "loader": None}
    extra = {} if looked.epoch is None else {"epoch": looked.epoch}
    return Saved(found, states, [alone] * found.world_size, extra), notes


def _read(looked: Looked) -> Any:
    path = looked.path
    try:
        looked.size = 0 if path.is_dir() else path.stat().st_size
        content = content_of(looked)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror or error}", path=str(path)) from error
    except CheckpointError as error:
        error.path = error.path or str(path)
        raise
    if looked.kind == "safeloader":
        return content["parts"]
    if looked.kind in ("torch", "lightning"):
        with contextlib.suppress(Exception):  # a whole pickled model, whose tensors are all that was read
            return torch.load(path, map_location="cpu", weights_only=True)
    return content


def _state_for(name: str, part: Any, content: Any, parts: Mapping[str, Any], notes: list[str]) -> Any:
    inner = innermost(part)
    if isinstance(inner, torch.nn.Module):
        models = [one for one in parts.values() if isinstance(innermost(one), torch.nn.Module)]
        names = (name, *_NAMES["model"]) if len(models) == 1 else (name,)
        flat = _flat(content, names)
        if flat is None:
            return None
        named, left = _named_as(inner, flat, f"{name}.")
        notes += [f"{name}: left out: {', '.join(left[:4])}{' and more' if len(left) > 4 else ''}"] if left else []
        return named
    kind = "optimizer" if isinstance(inner, torch.optim.Optimizer) else "scheduler"
    alike = [one for one in parts.values() if isinstance(innermost(one), type(inner))]
    for key in (name, *(_NAMES[kind] if len(alike) == 1 else ())):
        state = content.get(key) if isinstance(content, Mapping) else None
        state = state[0] if isinstance(state, list) and len(state) == 1 else state  # Lightning's
        if isinstance(state, Mapping) and (kind == "scheduler" or {"state", "param_groups"} <= set(state)):
            return state
    return None


def _flat(content: Any, names: Iterable[str]) -> dict[str, Any] | None:
    """The tensors of a model, by name."""
    if isinstance(content, Stub):
        return dict(_of_module(content, ""))
    if not isinstance(content, Mapping):
        return None
    for name in names:
        inner = content.get(name)
        if isinstance(inner, Stub) or (isinstance(inner, Mapping) and _flat(inner, ())):
            return _flat(inner, ())
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors if tensors and len(tensors) * 2 > len(content) else None


def _of_module(module: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    """The parameters and buffers of a pickled module that was not built."""
    inside = getattr(module, "__dict__", {})
    left_out = inside.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for key, tensor in (inside.get(kind) or {}).items():
            if isinstance(tensor, torch.Tensor) and key not in left_out:
                yield prefix + key, tensor
    for key, child in (inside.get("_modules") or {}).items():
        if child is not None:
            yield from _of_module(child, f"{prefix}{key}.")


def _named_as(model: torch.nn.Module, flat: dict[str, Any], own: str) -> tuple[dict[str, Any], list[str]]:
    """The same without a wrapper's prefix, where the model's own names fit better so; and what has no such prefix."""
    wanted = set(model.state_dict())
    best, reached = (flat, ""), [(flat, "")]
    for _ in range(3):  # wrappers in wrappers
        reached = [
            (
                {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)},
                before + prefix,
            )
            for named, before in reached
            for prefix in dict.fromkeys((own, *_PREFIXES))
        ]
        best = max([best, *reached], key=lambda found: len(wanted & set(found[0])))
    return best[0], [key for key in flat if not key.startswith(best[1]) and key != "n_averaged"]
