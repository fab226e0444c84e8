"""What the parts of a loader know of it: one small object, which each is given when it is made.

No part holds the loader, so the loader ends with the last reference that the program has to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safeloader.config import Settings
    from safeloader.observe import Recorder

__all__ = ["LoaderFace"]


class LoaderFace:
    """What a loader shows to its parts.

    Attributes:
        name: what logs and reports call it.
        settings: in effect.
        recorder: who is told what happens to it.
        epochs: the number of the next epoch.
    """

    __slots__ = ("epochs", "name", "recorder", "settings")

    def __init__(self, name: str, settings: Settings, recorder: Recorder) -> None:
        self.name = name
        self.settings = settings
        self.recorder = recorder
        self.epochs = 0
