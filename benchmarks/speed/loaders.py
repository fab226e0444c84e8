"""The loaders that are compared, built from the same arguments."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import torch.multiprocessing
import torch.utils.data

if TYPE_CHECKING:
    from collections.abc import Sized

    from torch.utils.data import DataLoader, Dataset

NAMES = (
    "torch",
    "torch-fork",
    "torch-forkserver",
    "safeloader",
    "safeloader-forkserver",
    "safeloader-prestart",
    "safeloader-standby",
)


def build(
    name: str,
    dataset: Dataset[Any],
    *,
    batch_size: int,
    num_workers: int,
    batch_timeout: float | None = None,
) -> DataLoader[Any]:
    """Build a loader with spawned, persistent workers.

    Args:
        name: "torch" (spawn), "torch-fork", "torch-forkserver" (it preloads torch), "safeloader", or that with one
            setting more: "safeloader-forkserver", ...
        dataset: What it loads, in order.
        batch_size: Samples in a batch.
        num_workers: Worker processes; 0 loads in the calling process.
        batch_timeout: Seconds until a worker that delivers nothing counts as hung; None: not given.

    Returns:
        The loader; `close` ends it.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in NAMES:
        raise ValueError(f"no loader is called {name!r}; there are {', '.join(NAMES)}")
    arguments: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
    if num_workers:
        arguments |= {"multiprocessing_context": "spawn", "persistent_workers": True}
    if name.startswith("torch"):
        if name == "torch-forkserver":
            torch.multiprocessing.set_forkserver_preload(["torch", "numpy"])
        if num_workers and name != "torch":
            arguments["multiprocessing_context"] = name.removeprefix("torch-")
        if batch_timeout is not None:
            arguments["timeout"] = batch_timeout
        return torch.utils.data.DataLoader(dataset, **arguments)
    import safeloader

    settings: dict[str, dict[str, Any]] = {
        "safeloader-forkserver": {"start_method": "forkserver"},
        "safeloader-prestart": {"prestart": True},
        "safeloader-standby": {"standby": 1},
    }
    policy = safeloader.Policy(batch_timeout=batch_timeout, **settings.get(name, {}))
    return safeloader.DataLoader(dataset, **arguments, policy=policy)


def close(loader: DataLoader[Any]) -> None:
    """End a loader's workers, whatever kind it is."""
    end = getattr(loader, "close", None)
    if end is not None:
        end()
    else:
        loader._iterator = None
    gc.collect()


def batches(dataset: Sized, batch_size: int) -> int:
    """How many batches an epoch has."""
    return -(-len(dataset) // batch_size)
