"""Whether a loader would be faster without worker processes. It decides, and touches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.observe.format import brief

if TYPE_CHECKING:
    from safeloader.observe.timings import Costs

__all__ = ["faster_without"]

_ENOUGH = 500
"""Batches that are looked at before anything is said."""
_SURELY = 2.0
"""Fetching a batch from a process costs the consumer so many times what making it costs the process, at least."""


def faster_without(costs: Costs) -> str:
    """A sentence where the consumer waits longer for a batch than making it in its own process would take, else "".

    Where batches are made while the consumer computes, it waits for their transport alone, so that is what is compared.
    Samplers, decoding and pinning stay as they are, and are left out.
    """
    if costs.batches < _ENOUGH or costs.fetching < _SURELY * costs.making:
        return ""
    return (
        f"num_workers=0 would be faster: a batch is made in {brief(costs.making)}, and costs {brief(costs.fetching)} "
        "to get from a process (processes still protect the program from samples that hang or crash)"
    )
