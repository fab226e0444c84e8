"""What several ranks have to agree on. Without ``torch.distributed`` all of this is the obvious thing for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from safeloader.dist_env import ALONE, group
from safeloader.errors import CheckpointError, SafeLoaderError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "all_do",
    "any_rank",
    "can_flag_on_device",
    "everyones",
    "first_does",
    "flag_on_device",
    "rank",
    "world_size",
]

T = TypeVar("T")


def rank() -> int:
    """This process's rank; 0 where there is only one."""
    return (group() or ALONE)[0]


def world_size() -> int:
    """How many ranks train together."""
    return (group() or ALONE)[1]


def any_rank(mine: bool) -> bool:
    """True on all ranks if it is true on one: one all-reduce of one number. All ranks must call it."""
    if world_size() == 1:
        return mine
    device = "cuda" if "nccl" in dist.get_backend() else "cpu"
    flag = torch.tensor([int(mine)], dtype=torch.int32, device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def can_flag_on_device() -> bool:
    """Whether ranks can tell one another of trouble without waiting for their accelerators."""
    return world_size() == 1 or "nccl" in dist.get_backend()


def flag_on_device(mine: torch.Tensor) -> torch.Tensor:
    """True on all ranks if it is true on one, on the device: nobody waits. All ranks must call it."""
    if world_size() == 1:
        return mine
    flag = mine.to(torch.int32)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def everyones(mine: T) -> list[T]:
    """What each rank gives, by rank. All ranks must call it."""
    if world_size() == 1:
        return [mine]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


def all_do(what: Callable[[], T]) -> T:
    """Do something on every rank; if it fails on one, it raises on all, so that none waits for another for ever."""
    if world_size() == 1:
        return what()
    failure: Exception | None = None
    try:
        done = what()
    except Exception as error:
        failure = error
    told = everyones(None if failure is None else _word_of(failure))
    if failure is not None:
        raise failure
    for number, word in enumerate(told):
        if word is not None:
            raise CheckpointError(f"rank {number} failed: {word}")
    return done


def _word_of(error: Exception) -> str:
    return error.what if isinstance(error, SafeLoaderError) else f"{type(error).__name__}: {error}"


def first_does(what: Callable[[], T]) -> T:
    """Let rank 0 do something; all ranks get its result, or raise its error. All ranks must call it."""
    if world_size() == 1:
        return what()
    told: list[Any] = [None, None]
    failure: Exception | None = None
    if rank() == 0:
        try:
            told[0] = what()
        except Exception as error:  # the others wait for word of it
            failure = error
            told[1] = error if isinstance(error, SafeLoaderError) else _word_of(error)
    dist.broadcast_object_list(told, src=0)
    if failure is not None:
        raise failure
    if told[1] is not None:
        raise told[1] if isinstance(told[1], SafeLoaderError) else CheckpointError(f"rank 0 failed: {told[1]}")
    result: T = told[0]
    return result
