"""One call that puts a run back where it was, all of it or nothing."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from safeloader import codes, torch_private
from safeloader.errors import CheckpointError
from safeloader.resume.sampler_state import Sampling
from safeloader.training import atomic_file, collectives, generators
from safeloader.training.checkpoint import Checkpoint
from safeloader.training.checkpoint import known as checkpoint_of
from safeloader.training.partly import fitting
from safeloader.training.parts import innermost, kind_of
from safeloader.training.rates import Rate, differing, set_rates
from safeloader.training.safe_types import to_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from safeloader.training.checkpoint import PassedOver, Saved
    from safeloader.training.store import CheckpointStore

__all__ = ["Resumed", "resume"]

_SHOWN = 4


@dataclass(frozen=True)
class Resumed:
    """What was put back. False where there was nothing: ``if resumed: ...``. ``print(resumed)`` says it in words.

    Attributes:
        run: The run's name.
        checkpoint: What was resumed from, or None.
        extra: What the program had added to it.
        notes: What is not as it was (another torch, generators of other accelerators), in words.
        passed_over: The files that were not taken, and why.
    """

    run: str
    checkpoint: Checkpoint | None
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.checkpoint is not None

    @property
    def step(self) -> int:
        """The step of the checkpoint; 0 where there was nothing."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    def __str__(self) -> str:
        if self.checkpoint is None:
            lines = [f"nothing to resume for run {self.run!r}: it begins anew"]
        elif not self.checkpoint.id:
            lines = [f"{f'run {self.run!r}' if self.run else 'it'} begins with {self.checkpoint.path.name}"]
        else:
            lines = [f"run {self.run!r} goes on from step {self.step} ({self.checkpoint.path.name})"]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  passed over: {passed}" for passed in self.passed_over]
        return "\n".join(lines)


def resume(
    store: CheckpointStore | None,
    *,
    checkpoint: Checkpoint | str | Path | Mapping[str, Any] | None = None,
    loader: Any = None,
    other_world_size: bool = False,
    learning_rate: Rate | Mapping[str, Rate] | None = None,
    strict: bool = True,
    may_be_infinite: Iterable[str] = (),
    **parts: Any,
) -> Resumed:
    """Put back the newest good checkpoint of this run, or say that there is none.

    Everything is checked before anything is changed. With ``torch.distributed``, all ranks call it together, and either
    all of them take the same checkpoint or all raise.

    Args:
        store: Where the checkpoints are; None: only what ``checkpoint`` says.
        checkpoint: Take this one, and not the newest good one: ``store.best_good()``, one of another folder; or what
            others wrote: a plain state dict, the path of one, or of a checkpoint of any kind that
            ``safeloader checkpoint`` knows. Generators and loader begin anew then, and names such as ``state_dict``,
            ``model_state_dict`` and ``optimizer`` are understood, with or without ``module.`` before the weights'.
        loader: Gets its own rank's state back, where one was saved, and goes on in the middle of its epoch.
        other_world_size: Accept a checkpoint of another number of ranks. A loader around an
            ``ElasticDistributedSampler`` goes on with what those ranks had not seen; any other, and the generators, are
            left as they are.
        learning_rate: The rate to go on with, in place of the saved one: a number, one a group, or a function of the
            present rate (``lambda rate: 0.75 * rate``); by part where there are several optimizers. Schedulers among
            the parts are scaled with it. Whatever differs from what was saved is among the notes.
        strict: False: put back what fits of a model that has grown or shrunk, and of its optimizer; the notes list what
            is new and what was left out.
        may_be_infinite: Patterns of tensors of a foreign checkpoint in which infinities are meant.
        **parts: What was given to ``store.save``, by the same names.

    Raises:
        CheckpointError: it does not fit: other parts, another model or optimizer, another number of ranks.
    """
    checkpoint = _ours(checkpoint, store)
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        return _adopt(store, checkpoint, (loader, learning_rate, strict, tuple(may_be_infinite)), parts)
    if store is None:
        raise CheckpointError("there is no store to resume from, and no checkpoint of another kind")
    found = checkpoint if checkpoint is not None else store.latest_good()
    passed_over = [] if checkpoint is not None else list(store.passed_over)
    if found is None:
        nothing = Resumed(store.run, None, passed_over=passed_over)
        codes.log_info("SL145", "%s", nothing)
        return nothing
    chosen = found

    def read() -> tuple[Saved, list[str]]:
        here = store.folder / chosen.path.name  # this rank's own view of the folder
        elsewhere = checkpoint is not None and not here.exists()  # of another folder
        saved = store.load(chosen.path if elsewhere else here)
        if saved.checkpoint.id != chosen.id:
            raise CheckpointError("this rank sees another file under that name", path=str(chosen.path))
        return saved, _check(saved, loader, other_world_size, parts, strict)

    saved, notes = collectives.all_do(read)
    notes += collectives.all_do(lambda: _put_back(saved, loader, parts, learning_rate, strict))
    resumed = Resumed(store.run, chosen, to_values(saved.extra), notes, passed_over)
    codes.log_info("SL145", "%s", resumed)
    return resumed


def _ours(given: Any, store: CheckpointStore | None) -> Checkpoint | Path | Mapping[str, Any] | None:
    """What is given as a checkpoint; a path that is one of this package's is looked up in the store."""
    if not isinstance(given, (str, os.PathLike)):
        known: Checkpoint | Mapping[str, Any] | None = given
        return known
    path = Path(given)
    if store is not None:
        with contextlib.suppress(CheckpointError):
            return checkpoint_of(path, atomic_file.read_manifest(path))
    return path


def _adopt(
    store: CheckpointStore | None, source: Path | Mapping[str, Any], how: tuple[Any, ...], parts: Mapping[str, Any]
) -> Resumed:
    from safeloader.training.foreign import adopted

    loader, rate, strict, may_be_infinite = how

    def read() -> tuple[Saved, list[str]]:
        saved, left_out = adopted(source, parts, may_be_infinite)
        return saved, left_out + _check(saved, None, False, parts, strict)

    saved, notes = collectives.all_do(read)
    notes.append(
        "generators" + (" and loader" if loader is not None else "") + " begin anew: it holds no state of them"
    )
    notes += collectives.all_do(lambda: _put_back(saved, None, parts, rate, strict))
    resumed = Resumed(store.run if store else "", saved.checkpoint, to_values(saved.extra), notes, [])
    codes.log_info("SL145", "%s", resumed)
    return resumed


# ---------------------------------------------------------------- does it fit?


def _check(saved: Saved, loader: Any, other_world_size: bool, parts: Mapping[str, Any], strict: bool) -> list[str]:
    found, notes = saved.checkpoint, []
    here = collectives.world_size()
    if found.world_size != here:
        if not other_world_size:
            raise CheckpointError(
                f"it was saved by {found.world_size} ranks, and {here} resume",
                path=str(found.path),
                hint="start as many ranks, or resume(..., other_world_size=True): model and optimizer are put back, "
                "and a loader around an ElasticDistributedSampler; generators and other loaders are not",
            )
        left = "generators are" if _elastic(loader) else "generators and loader are"
        notes.append(f"saved by {found.world_size} ranks, {here} are here: {left} as they were")
    missing = [name for name in parts if name not in saved.parts]
    if missing and not strict:
        notes.append(f"new, as it was built: {', '.join(missing)}")
    elif missing:
        has = ", ".join(saved.parts) or "no parts"
        raise CheckpointError(f"it holds no {', '.join(missing)}; it holds {has}", path=str(found.path))
    notes += [f"{name} is in it and was not asked for" for name in saved.parts if name not in parts]
    for name, part in parts.items():
        if name in saved.parts:
            try:
                _check_part(found, name, part, saved.parts[name], strict)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                what = f"{name} is no state of a {kind_of(part)}: {error!r}"
                raise CheckpointError(what, path=str(found.path)) from error
    _check_loader(saved, loader, notes)
    if found.torch != torch.__version__:
        notes.append(f"it was saved with torch {found.torch}, this is torch {torch.__version__}")
    return notes


def _check_loader(saved: Saved, loader: Any, notes: list[str]) -> None:
    if saved.checkpoint.world_size != collectives.world_size() and not _elastic(loader):
        return
    state = _of_rank(saved)["loader"]
    if loader is None and state is not None:
        notes.append("it holds the loader's state, and no loader was given")
    elif loader is not None and state is None:
        notes.append("it holds no loader's state: the loader begins its epoch anew")
    elif loader is not None and not callable(getattr(loader, "load_state_dict", None)):
        raise CheckpointError(f"the loader, a {type(loader).__name__}, has no load_state_dict()")


def _of_rank(saved: Saved) -> dict[str, Any]:
    """What this rank goes on from; of more ranks than saved, those beyond take what others take, too."""
    found: dict[str, Any] = saved.ranks[collectives.rank() % len(saved.ranks)]
    return found


def _elastic(loader: Any) -> bool:
    """True if any number of ranks can go on from its state."""
    return isinstance(loader, DataLoader) and Sampling(torch_private.index_sampler(loader)).elastic


def _check_part(found: Checkpoint, name: str, part: Any, state: Any, strict: bool) -> None:
    inner, was, is_now = innermost(part), found.kinds.get(name), kind_of(part)
    problems: list[str] = []
    if isinstance(inner, torch.nn.Module):
        problems = _model_differs(inner.state_dict(), state) if strict else []
    elif isinstance(inner, torch.optim.Optimizer):
        if was is not None and was != is_now:
            problems = [f"it was a {was}, and is a {is_now}"]
        elif strict:
            problems = _optimizer_differs(inner, state)
    elif not callable(getattr(inner, "load_state_dict", None)):
        problems = [f"a {is_now} has no load_state_dict()"]
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"{name} does not fit: {shown}{more}",
            path=str(found.path),
            hint="build it as it was built when the checkpoint was saved, or resume(..., strict=False): what fits is "
            "put back, and what is new or left out is listed",
        )


def _model_differs(here: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    problems = [f"{key} is not in the checkpoint" for key in here if key not in saved]
    problems += [f"the model has no {key}" for key in saved if key not in here]
    for key, value in here.items():
        other = saved.get(key)
        if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor) and value.shape != other.shape:
            problems.append(f"{key} was {tuple(other.shape)}, and is {tuple(value.shape)}")
        elif isinstance(value, torch.Tensor) and value.is_meta:
            problems.append(f"{key} is on the meta device, which keeps no values")
    return problems


def _optimizer_differs(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> list[str]:
    here = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    return [] if here == saved else [f"its groups had {saved} parameters, and have {here}"]


# ---------------------------------------------------------------- put it back


def _put_back(
    saved: Saved, loader: Any, parts: Mapping[str, Any], rate: Rate | Mapping[str, Rate] | None, strict: bool
) -> list[str]:
    parts = {name: part for name, part in parts.items() if name in saved.parts}
    states, notes = {name: to_values(saved.parts[name]) for name in parts}, []
    if rate is None:
        optimizers = {n: o for n, part in parts.items() if isinstance(o := innermost(part), torch.optim.Optimizer)}
        notes += [note for name, one in optimizers.items() for note in differing(name, one, states[name])]
    if not strict:
        states, left = fitting(parts, states)
        notes += left
    _load_all(saved, parts, states)
    if rate is not None:
        notes += set_rates(parts, rate)
    return notes + _put_back_loader(saved, loader)


def _load_all(saved: Saved, parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        try:
            innermost(part).load_state_dict(states[name])
        except Exception as error:
            raise CheckpointError(
                f"{name} refused its state, and what was put back before it stays: {error}",
                path=str(saved.checkpoint.path),
            ) from error


def _put_back_loader(saved: Saved, loader: Any) -> list[str]:
    elsewhere = saved.checkpoint.world_size != collectives.world_size()
    if elsewhere and not _elastic(loader):
        return []
    mine = to_values(_of_rank(saved))
    if loader is not None and mine["loader"] is not None:
        loader.load_state_dict(mine["loader"])
    return [] if elsewhere or mine["generators"] is None else generators.restore(mine["generators"])
