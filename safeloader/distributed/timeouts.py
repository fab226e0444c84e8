"""Makes a loader's deadlines fit into the timeout of the process group.

While one rank recovers, the others wait in a collective operation, which has a timeout of its own: 30 minutes with
gloo, 10 with NCCL. If the recovery takes longer, the other ranks end the run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from safeloader import codes, torch_private
from safeloader.codes import warn
from safeloader.core.policy import CoreSettings, Deadlines, longest_batch_timeout, worst_recovery
from safeloader.dist_env import ALONE, group
from safeloader.errors import SettingsError

if TYPE_CHECKING:
    from safeloader.config import Settings

__all__ = ["SHARE", "GroupTimeout", "fitted"]

SHARE = 0.8
"""Share of the group's timeout that a recovery may take; the rest is for starting processes and for the step itself."""


class GroupTimeout:
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
        """The settings with a `batch_timeout` that fits into the group's timeout, unless the user gave one.

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
            codes.log_info("SL109",
                "%s: batch_timeout is limited to %.0f s, so that a recovery takes no longer than the process group's "
                "timeout of %.0f s allows", self._name, fits, limit,
            )  # fmt: skip

    def _warn(self, core: CoreSettings, limit: float, fits: float) -> None:
        text = (
            f"{self._name}: a sample that hangs can delay this rank by {worst_recovery(core):.0f} s "
            f"({1 + core.bad_sample_attempts} attempts, each with twice the time), but the other ranks give up after "
            f"{limit:.0f} s, the timeout of the process group"
        )
        raised = f"init_process_group(timeout=timedelta(seconds={worst_recovery(core) / SHARE:.0f}))"
        hint = f"batch_timeout={fits:.0f}, or {raised}" if fits >= 1 else raised
        if self._strict:
            raise SettingsError(text, hint=hint, code="SL108")
        if not self._told:
            self._told = True
            warn("SL108", f"{text}. To change it: {hint}", stacklevel=7)


def fitted(core: CoreSettings, fits: float) -> CoreSettings:
    """The same with no longer a deadline than so many seconds."""
    if core.batch_timeout == "auto":
        return replace(core, learned_ceiling=fits)
    return replace(core, batch_timeout=fits)
