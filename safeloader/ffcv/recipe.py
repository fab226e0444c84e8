"""What a pipeline is made from, and a place in a training: plain values, which travel to other processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeloader.ffcv.beton import Fingerprint
    from safeloader.ffcv.order import SampleOrder

__all__ = ["EnginePlace", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """All that a pipeline is made from; travels to other processes.

    Attributes:
        path: The ``.beton`` file.
        print: The file as it was when the loader was made.
        order: Order of the samples.
        pipelines: The user's, or a factory ``pipelines(size)``.
        custom_fields: Classes of custom fields.
        num_workers: FFCV's threads.
        os_cache: Map the file, or read its pages.
        batches_ahead: Batches made in advance.
        recompile: Compile anew each epoch.
        seed: Seed of the augmentation.
        copy: Batches stay valid.
        cache: Folder for compiled code, or None.
    """

    path: str
    print: Fingerprint
    order: SampleOrder
    pipelines: Any
    custom_fields: dict[str, Any]
    num_workers: int
    os_cache: bool
    batches_ahead: int
    recompile: bool
    seed: int
    copy: bool
    cache: str | None


@dataclass(frozen=True)
class EnginePlace:
    """Where in the course of a training.

    Attributes:
        epoch: An epoch.
        batch: One of its batches.
        size: The image size there; None: as given.
        changes: What the user changed in the operations since the recipe was sent (see `operations.Attributes`).
        anew: How often the user asked for the code to be generated.
    """

    epoch: int
    batch: int
    size: int | None
    changes: bytes | None = field(default=None, repr=False)
    anew: int = 0
