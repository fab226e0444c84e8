"""Whether a loader's processes copy themselves (shadows), and what a fault can cost where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from safeloader import torch_private
from safeloader.runtime import system
from safeloader.runtime.child.dataset_state import is_exact, is_stateful

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from safeloader.loader_state import LoaderState

__all__ = ["shadow_for"]

_POOLED = "its processes are a pool's, which others share"
_ON_HOSTS = "its processes may be on other hosts, where none is made of a copy"
_NO_PIDFD = "this system has no descriptors of processes (pidfd)"


def shadow_for(loader: DataLoader[Any], state: LoaderState, pooled: bool) -> bool | Literal["auto"]:
    """Whether the loader's processes copy themselves; the report gets what is not restored without that.

    Nobody needs copies where samples set the generators (``sample_rng``), and nothing else matters.
    """
    wanted, why = state.settings.shadow, ""
    seeded = state.keeper.seed_for_samples(loader) is not None
    if pooled:
        why = _POOLED
    elif not (system.HAS_PIDFD and system.HAS_SIGNAL_ON_HANGUP):
        why = _NO_PIDFD
    elif state.settings.hosts != "local":
        why = _ON_HOSTS
    elif not wanted:
        why = "Policy(shadow=False)"
    elif wanted == "auto" and seeded and not is_stateful(loader.dataset):
        why = "Policy(sample_rng=True)"
    if wanted is True and why:
        state.recorder.unshadowed(why)
    state.recorder.uncovered = _uncovered(loader, why, trusted=state.settings.trust_state)
    return False if why else wanted


def _uncovered(loader: DataLoader[Any], why: str, trusted: bool) -> str:
    """What is not restored if a process is lost, for people; "" if all is."""
    dataset = loader.dataset
    if not why or (is_stateful(dataset) and (trusted or is_exact(dataset) or not torch_private.is_iterable(loader))):
        return ""
    if torch_private.is_iterable(loader):
        return f"a stream that is not the same when it is read again (a shuffle without a seed): {why}"
    return f"what the dataset changes in itself while it loads (a cache, a counter): {why}"
