"""The only words that cross the border of the core: events are past facts, commands are imperatives.

All are ``NamedTuple``: immutable, slotted, picklable, and three times cheaper to make than frozen dataclasses (several
are made for every batch). Fields typed ``object`` are opaque: the core carries them and never looks inside.
Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from safeloader.core.commands import *  # noqa: F403 - both say in __all__ what they hold
from safeloader.core.events import *  # noqa: F403
