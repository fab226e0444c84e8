"""The code of each happening's line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.observe import events as h

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["code_of"]

_FAULTS = {
    "died": "SL001", "oom": "SL002", "hung": "SL003", "stopped": "SL004", "failed_start": "SL005", "raised": "SL006",
    "unpicklable": "SL007", "bad_sample": "SL008",
}  # fmt: skip
_OTHER_FAULT = "SL009"
_CODES: dict[type[h.Happening], str] = {
    h.Started: "SL010",
    h.Restarted: "SL011",
    h.Resumed: "SL012",
    h.FellBack: "SL013",
    h.Recovered: "SL014",
    h.Slow: "SL015",
    h.Skipped: "SL016",
    h.EpochEnded: "SL017",
    h.Closed: "SL018",
    h.Resized: "SL019",
    h.NotUndone: "SL025",
    h.CodeChanged: "SL026",
    h.Unshadowed: "SL027",
    h.Reopened: "SL038",
    h.Differs: "SL028",
    h.SlowStart: "SL029",
    h.RanksStalled: "SL034",
    h.Stayed: "SL036",
    h.StallEnded: "SL035",
}
_REPLAYS = {"same": "SL020", "unknown": "SL021", "refused": "SL023", "missing": "SL024", "lost": "SL037"}
_DIVERGED = "SL022"
_HOLDERS = {"loader": "SL030", "sampler": "SL031"}
_IN_STEP, _BETWEEN_EPOCHS = "SL032", "SL033"


def _stalled(event: h.Stalled) -> str:
    return _HOLDERS.get(event.holder) or (_IN_STEP if event.busy else _BETWEEN_EPOCHS)


_BY_VALUE: dict[type[h.Happening], Callable[[Any], str]] = {
    h.Fault: lambda fault: _FAULTS.get(fault.cause, _OTHER_FAULT),
    h.Replayed: lambda event: _REPLAYS.get(event.outcome, _DIVERGED),
    h.Stalled: _stalled,
}


def code_of(event: h.Happening) -> str:
    """The code of the line about a happening."""
    by_value = _BY_VALUE.get(type(event))
    return _CODES[type(event)] if by_value is None else by_value(event)
