"""The random generators that a loader's batches depend on in the trainer: how they stand, and how to put them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.resume.checkpoint import Moment
from safeloader.resume.held_generators import held_now, put_back
from safeloader.resume.sampler_state import generators_of
from safeloader.runtime.child.generators import Generators

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from safeloader.loader_face import LoaderFace
    from safeloader.runtime.child.generators import States

__all__ = ["Moments"]


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
        return Moment(self.program(), own, held_now(loader))

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
        missing = put_back(loader, moment.held, samplers=own)
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
