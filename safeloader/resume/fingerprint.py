"""What must be the same where a state is taken and where it is loaded, and what a state then says if it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.dist_env import ALONE, group
from safeloader.errors import StateError
from safeloader.lengths import length_of
from safeloader.resume.sampler_state import names_of
from safeloader.runtime.child.dataset_state import is_stateful

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["check_same", "facts_of", "ranks"]

_WORDS = {
    "style": "the dataset's style",
    "length": "the dataset's length",
    "stateful": "whether the dataset has state_dict and load_state_dict",
    "samplers": "the kinds of samplers",
    "batches": "the number of batches",
    "batch_size": "batch_size",
    "drop_last": "drop_last",
    "num_workers": "num_workers",
    "persistent_workers": "persistent_workers",
    "generator": "whether the loader has a generator of its own",
    "sample_rng": "Policy(sample_rng)",
    "ranks": "(rank, world size)",
}


def ranks() -> list[int] | None:
    """This program's rank and the world's size, where torch.distributed runs."""
    here = group()
    return None if here is None else list(here)


def facts_of(loader: DataLoader[Any], sample_rng: bool) -> dict[str, Any]:
    """What the stream of batches depends on, in plain words.

    Args:
        loader: whose.
        sample_rng: whether its policy keys generators by the sample.
    """
    iterable = torch_private.is_iterable(loader)
    return {
        "style": "iterable" if iterable else "map",
        "length": None if iterable else length_of(loader.dataset),
        "stateful": is_stateful(loader.dataset),
        "samplers": names_of(torch_private.index_sampler(loader)),
        "batches": None if iterable else length_of(torch_private.index_sampler(loader)),
        "batch_size": loader.batch_size,
        "drop_last": bool(loader.drop_last),
        "num_workers": loader.num_workers,
        "persistent_workers": bool(loader.persistent_workers),
        "generator": loader.generator is not None,
        "sample_rng": sample_rng,
        "ranks": ranks(),
    }


def check_same(told: dict[str, Any], here: dict[str, Any], but: frozenset[str]) -> None:
    """Compare facts.

    Args:
        told: those of the state.
        here: those of this loader.
        but: which may differ.

    Raises:
        StateError: they differ; it says in what.
    """
    told, here = _alone(told), _alone(here)
    different = [name for name in _WORDS if name not in but and told.get(name) != here[name]]
    if different:
        listed = "; ".join(f"{_WORDS[name]} was {told.get(name)!r} and is {here[name]!r}" for name in different)
        raise StateError(
            f"this state is of another loader: {listed}",
            hint=_hint(different),
            code="SL222",
        )


def _alone(facts: dict[str, Any]) -> dict[str, Any]:
    """One rank is one rank, with a process group and without."""
    return {**facts, "ranks": list(facts.get("ranks") or ALONE)}


def _hint(different: list[str]) -> str:
    if different == ["num_workers"]:
        return (
            "each worker has random generators of its own, so another num_workers is another stream. Use fewer or more "
            "processes for the same workers, Policy(max_processes=...), or make the stream independent of them, "
            "Policy(sample_rng=True)"
        )
    if different == ["ranks"]:
        return "let each rank save and load its own state, or use safeloader.distributed.ElasticDistributedSampler"
    return "build the loader as it was, or begin anew without the state"
