"""A loader's deadlines beside those of the process group.

While one rank recovers, the others wait in a collective operation, and that has a timeout of its own: 30 minutes with
gloo, 10 with NCCL. A recovery that takes longer is no recovery: the others end the run.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import torch_private
from ..core.policy import CoreSettings, Deadlines, longest_batch_timeout, worst_recovery
from ..errors import SettingsError
from ..observe.log import logger
from ..ranks import ALONE, group

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["SHARE", "Patience", "fitted"]

SHARE = 0.8
"""Of the group's timeout, what a recovery may take; the rest is for starting processes and for the step itself."""


class Patience:
    """One loader's.

    Args:
        name: The loader's.
        settings: In effect.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._given = settings.sources["batch_timeout"] != "default"
        self._strict = settings.strict
        self._told = False

    def fit(self, core: CoreSettings) -> CoreSettings:
        """The settings with a `batch_timeout` that goes with the process group's, where it is ours to choose.

        Raises:
            SettingsError: It was given, and is too long, and warnings are errors.
        """
        limit = torch_private.group_timeout() if (group() or ALONE)[1] > 1 else None
        if limit is None or worst_recovery(core) <= SHARE * limit:
            return core
        fits = longest_batch_timeout(core, SHARE * limit)
        ours = core.batch_timeout == "auto" or not self._given
        if ours and fits >= Deadlines.FLOOR:
            self._say_shorter(limit, fits)
            return fitted(core, fits)
        self._warn(core, limit, fits)
        return core

    def _say_shorter(self, limit: float, fits: float) -> None:
        if not self._told:
            self._told = True
            logger.info(
                "%s: batch_timeout is at most %.0f s here, so that a recovery does not outlast the process group's "
                "timeout of %.0f s", self._name, fits, limit,
            )  # fmt: skip

    def _warn(self, core: CoreSettings, limit: float, fits: float) -> None:
        text = (
            f"{self._name}: a sample that hangs may hold this rank up for {worst_recovery(core):.0f} s "
            f"({1 + core.bad_sample_attempts} attempts, each with twice the time), and the other ranks give up after "
            f"{limit:.0f} s, the timeout of the process group"
        )
        raised = f"init_process_group(timeout=timedelta(seconds={worst_recovery(core) / SHARE:.0f}))"
        hint = f"batch_timeout={fits:.0f}, or {raised}" if fits >= 1 else raised
        if self._strict:
            raise SettingsError(text, hint=hint)
        if not self._told:
            self._told = True
            warnings.warn(f"{text}. To change it: {hint}", UserWarning, stacklevel=7)


def fitted(core: CoreSettings, fits: float) -> CoreSettings:
    """The same with no longer a deadline than so many seconds."""
    if core.batch_timeout == "auto":
        return replace(core, learned_ceiling=fits)
    return replace(core, batch_timeout=fits)
