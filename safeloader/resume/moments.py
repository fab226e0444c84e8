"""The random generators that a loader's batches depend on in the trainer: how they stand, and how to put them back.

They are the program's three, those of its samplers and, without workers, those of the dataset. (A worker's are part of
its standing.) Before a draw from the sampler it is noted how they stand, should an exception from outside break it off.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.resume.checkpoint import Moment
from safeloader.resume.sampler_state import generators_of
from safeloader.runtime.child.generators import Generators
from safeloader.runtime.child.own_generators import OwnGenerators

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.data import DataLoader

    from safeloader.loader_face import LoaderFace
    from safeloader.runtime.child.generators import States

__all__ = ["BeforeDraw", "Moments"]


class Moments:
    """One loader's.

    Args:
        face: the loader's; its recorder is told of generators that cannot be put back.
    """

    def __init__(self, face: LoaderFace) -> None:
        self._face = face
        self._generators: Generators | None = None

    def now(self, loader: DataLoader[Any]) -> Moment:
        """How they stand."""
        own = {place: generator.get_state() for place, generator in generators_of(loader).items()}
        return Moment(self.program(), own, _held(loader, samplers=True).capture())

    def program(self) -> States:
        """How the program's three stand."""
        return self._three().capture()

    def put(self, loader: DataLoader[Any], moment: Moment, own: bool = True) -> None:
        """Set them as they stood.

        Args:
            loader: whose they are.
            moment: what `now` told.
            own: those that loader and samplers own, too.
        """
        missing = _put_back(loader, moment.held, samplers=own)
        if missing:
            self._face.recorder.replayed(
                0, self._face.epochs, "missing", "generators", 0, 0, 0, ", ".join(missing), "goes on"
            )
        self._three().restore(moment.program)
        for place, generator in generators_of(loader).items() if own else ():
            if place in moment.own:
                generator.set_state(moment.own[place])

    def _three(self) -> Generators:
        if self._generators is None:
            self._generators = Generators()
        return self._generators


class BeforeDraw:
    """How the generators stood before a draw of one epoch.

    The sampler's own are copied each time: some microseconds. The program's three are copied only if the sampler draws
    from them, which its first draw shows. Not torch's samplers: they seed a generator of their own from one number.

    Args:
        loader: its loader.
        program: how the program's three stand.
    """

    def __init__(self, loader: Any, program: Callable[[], States]) -> None:
        self._own = generators_of(loader)
        self._program = program
        self._first: States | None = None
        self._draws = 0
        self._takes = True
        self._noted: tuple[States | None, dict[str, Any]] | None = None
        self.is_needed = True  # else each draw would note what the last one has

    def note(self) -> None:
        """A draw begins."""
        self._noted = None
        program = self._program() if self._takes else None
        if self._draws == 2 and self._takes:  # the first draw may only have seeded something
            self._takes = pickle.dumps(program) != pickle.dumps(self._first)
        self._first = program if self._draws == 1 else self._first
        self._draws += 1
        own = {place: generator.get_state() for place, generator in self._own.items()} if self._own else {}
        self._noted = program, own
        self.is_needed = self._takes or bool(self._own) or program is not None

    def moment(self, now: Moment, drawn: Moment) -> Moment:
        """How the generators are to stand for the draw to be made again.

        Args:
            now: as they stand, after the draw was broken off.
            drawn: as they stand where another sampler was drawn from as often before.
        """
        if self._noted is None:  # it was not asked yet
            return now
        program, own = self._noted
        return Moment(now.program if program is None else program, own, drawn.held)


def _put_back(loader: DataLoader[Any], told: dict[str, Any] | None, samplers: bool) -> list[str]:
    """Set their states. Returns the paths of those that are not there, since the dataset makes them later.

    Args:
        loader: whose they are.
        told: what they told.
        samplers: those of the samplers, too, which did not restore themselves.
    """
    if told is None:
        return []
    held = _held(loader, samplers)
    states = {path: entry for path, entry in told["states"].items() if samplers or not path.startswith("sampler")}
    here = held.known(states)
    held.restore({**told, "states": here})
    return [path for path in states if path not in here]


def _held(loader: DataLoader[Any], samplers: bool) -> OwnGenerators:
    roots: list[tuple[str, Any]] = []
    if samplers and not torch_private.is_iterable(loader):
        roots.append(("sampler", torch_private.index_sampler(loader)))
    if not loader.num_workers:
        roots += [("dataset", loader.dataset), ("collate_fn", loader.collate_fn)]
    return OwnGenerators(roots, without=[loader.dataset] if loader.num_workers else [])
