"""Where the sampler stands, and how to get there again.

Three ways, best first:

- *rewind*: the sampler can say where it was before the batches that are only prefetched (``state_dict_before``).
- *jump*: the sampler, its iterator, or the sampler inside torch's ``BatchSampler`` can tell its state. The state is
  taken as it is now, after the prefetched draws, which are kept as they are.
- *replay*: the generators are put back to the beginning of the epoch and what was drawn is drawn again, without loading
  anything. What was kept of the draws must come again: a sampler that gives others is found out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler

from safeloader.core.state import PlannedTask
from safeloader.errors import StateError
from safeloader.resume.json_codec import decode, encode
from safeloader.runtime.child.dataset_state import is_stateful

if TYPE_CHECKING:
    import torch

    from safeloader.core.state import State

__all__ = ["Sampling", "chain_of", "count_planned", "decode_planned", "encode_planned", "generators_of", "names_of"]


def chain_of(sampler: Any) -> list[Any]:
    """The sampler and those inside it."""
    chain: list[Any] = []
    while sampler is not None and len(chain) < 8 and not any(sampler is known for known in chain):
        chain.append(sampler)
        inner = getattr(sampler, "sampler", None)  # not asked whether it is true: that would be its length
        sampler = getattr(sampler, "batch_sampler", None) if inner is None else inner
    return chain


def names_of(sampler: Any) -> list[str]:
    """The kinds of samplers in a chain."""
    return [f"{type(one).__module__}.{type(one).__qualname__}" for one in chain_of(sampler)]


def generators_of(loader: Any) -> dict[str, torch.Generator]:
    """The generators that loader and samplers own, each under the place where it is found first."""
    import torch

    found: dict[str, torch.Generator] = {}
    places = [("loader", loader), *((f"sampler {i}", one) for i, one in enumerate(chain_of(loader._index_sampler)))]
    for place, owner in places:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and not any(generator is known for known in found.values()):
            found[place] = generator
    return found


class Sampling:
    """One loader's index sampler.

    Args:
        sampler: what gives batches of indices, or single indices.

    Attributes:
        carrier: the sampler, of those in it, whose state says it all; None if there is none.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.carrier = self._find()

    def _find(self) -> Any:
        """The sampler whose state says it all."""
        sampler = self.sampler
        plain = isinstance(sampler, BatchSampler) and type(sampler).__iter__ is BatchSampler.__iter__
        for one in (sampler, sampler.sampler) if plain else (sampler,):  # torch's draws nothing in advance
            if is_stateful(one):
                return one
        return None

    @property
    def rewinds(self) -> bool:
        """True if it can say where it was some samples ago."""
        return callable(getattr(self.carrier, "state_dict_before", None))

    @property
    def elastic(self) -> bool:
        """True if its state is that of all ranks, and any number of ranks can go on from it."""
        return self.rewinds and bool(getattr(self.carrier, "elastic", False))

    @property
    def begins(self) -> dict[str, Any]:
        """What the samplers inside say of themselves before an epoch begins; to be kept for a replay."""
        if self.carrier is not None:
            return {}
        inside = enumerate(chain_of(self.sampler))
        return {str(depth): one.state_dict() for depth, one in inside if is_stateful(one)}

    # ------------------------------------------------------------ out

    def tell(self, iterator: Any, state: State) -> dict[str, Any]:
        """Where it stands."""
        if self.rewinds:
            drawn = count_planned(state) if state.drawn or state.over else None
            return {"way": "rewind", "state": self.carrier.state_dict_before(drawn)}
        told: dict[str, Any] = {"way": "replay"}
        if self.carrier is not None:
            told = {"way": "jump", "state": self.carrier.state_dict()}
        if iterator is not None and iterator is not self.carrier and is_stateful(iterator):
            told = {**told, "way": "jump", "iterator": iterator.state_dict()}
        return told

    # ------------------------------------------------------------ in

    def load(self, told: dict[str, Any], begins: dict[str, Any]) -> None:
        """Put states back, before the iterator is made."""
        if "state" in told:
            self._demand(self.carrier, "the sampler").load_state_dict(told["state"])
        for depth, one in enumerate(chain_of(self.sampler)):
            if str(depth) in begins:
                self._demand(one, f"{type(one).__name__}").load_state_dict(begins[str(depth)])

    @staticmethod
    def _demand(one: Any, name: str) -> Any:
        if not is_stateful(one):
            raise StateError(
                f"the state holds one of {name}, which has no load_state_dict", hint="give the loader the same sampler"
            )
        return one

    def go_on(self, told: dict[str, Any], iterator: Any, state: State) -> None:
        """Bring its new iterator to where the old one stood."""
        if told["way"] == "replay":
            self._replay(iterator, state)
        elif "iterator" in told:
            self._demand(iterator, "the sampler's iterator").load_state_dict(told["iterator"])

    def _replay(self, iterator: Any, state: State) -> None:
        known = {task.batch: task for task in (*([state.last] if state.last is not None else []), *state.planned)}
        for number in range(state.drawn):
            try:
                indices = next(iterator)
            except StopIteration:
                raise StateError(
                    f"the sampler has {number} batches, and {state.drawn} were drawn before the state was taken",
                    hint=_OTHER,
                ) from None
            if number in known and encode(indices) != encode(known[number].indices):
                raise StateError(
                    f"the sampler gives other samples than before the state was taken: batch {number} has "
                    f"{_few(indices)}, and it had {_few(known[number].indices)}",
                    hint=_OTHER,
                )

    def past_the_end(self, iterator: Any) -> Any:
        """Begin an epoch; some samplers, put at an epoch's end, take that for an epoch with nothing left first."""
        nothing = object()
        first = next(iterator, nothing)
        if first is nothing:
            iterator = iter(self.sampler)
            first = next(iterator, nothing)
        if first is not nothing:
            yield first
            yield from iterator


_OTHER = (
    "it must be the same sampler, with the same seed, length and epoch (call set_epoch as before). One that keeps "
    "something from earlier epochs needs state_dict and load_state_dict"
)


def _few(indices: Any) -> str:
    text = repr(indices)
    return text if len(text) <= 60 else text[:57] + "..."


def count_planned(state: State) -> int:
    """How many samples were drawn and not got."""
    return sum([len(task.indices) if isinstance(task.indices, (list, tuple)) else 1 for task in state.planned])


def encode_planned(task: PlannedTask) -> list[Any]:
    """A planned batch in plain words."""
    return [task.batch, task.worker, encode(task.indices), list(task.skip)]


def decode_planned(told: list[Any]) -> PlannedTask:
    """What `encode_planned` told."""
    batch, worker, indices, skip = told
    return PlannedTask(int(batch), int(worker), decode(indices), tuple(skip))
