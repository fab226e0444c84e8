"""The messages between a trainer and its processes: each a record here, and on the channel a plain tuple.

That tuple begins with the record's number among ``KINDS``: to pickle a class with each message, and to find it again,
would cost more than the rest of a small one (``channel.frame``). Times are those of the sender's own clock.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from safeloader.runtime.child.worker_place import WorkerPlace
    from safeloader.runtime.payload import HostConfig

STREAM_IN_MESSAGE = 4096
"""A pickle stream of at most so many bytes travels in the message; a longer one lies in the lease."""

WorkerStates = tuple[int, Any]
"""A worker, and its ``States`` or ``Advanced``: the latter without ``base`` where the process told it before."""
Extent = tuple[int, int]
"""Where something lies in the lease, and how long it is."""


class FileQueue:
    """Descriptors that came with a message. Whoever takes them closes them; else they are closed with this object."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers

    def take(self) -> list[int]:
        """They are the caller's from now on."""
        taken, self._numbers = self._numbers, []
        return taken

    def __del__(self) -> None:
        for number in self._numbers:
            os.close(number)


class Packed(NamedTuple):
    """Something small that any interpreter can read, pickled (``indices.pack``)."""

    data: bytes


class Carried(NamedTuple):
    """Something small, serialised by value."""

    data: bytes


# ---------------------------------------------------------------- to a process


class Join(NamedTuple):
    """The first message: belong to this loader.

    It comes with ``files`` descriptors: the spec's file, the arena, the working directory if it ``moved``, and those
    that the spec's objects share with the trainer. What does not fit into one message comes with ``More``.
    """

    number: int
    config: HostConfig
    facts: tuple[Any, ...] | None
    """Surroundings that differ from those that the process was started with."""
    moved: bool
    files: int


class More(NamedTuple):
    """Further descriptors."""


class Admit(NamedTuple):
    """Serve a further loader, in a process of a pool; with descriptors."""

    number: int
    announce: bool
    config: HostConfig
    path: list[str]
    argv: list[str]


class Part(NamedTuple):
    """So many descriptors, and what they belong to (``Admit``), unless more of them follow."""

    files: int
    message: Any


class Host(NamedTuple):
    """Bring a worker to its place; answered by ``Hosted`` or ``Diverged``."""

    place: WorkerPlace


class Drop(NamedTuple):
    """Let go of a worker."""

    worker: int


class Resume(NamedTuple):
    """A new epoch; answered by ``Resumed``."""

    worker: int
    shared_seed: int | None
    epoch: int
    told_epoch: int | None


class Rewind(NamedTuple):
    """Put a worker's generators back; answered by ``Resumed``."""

    worker: int
    states: Any


class Task(NamedTuple):
    """Load a batch into a lease, without the samples to ``skip``.

    ``indices`` are ``Packed`` unless they are plain numbers, and ``Carried`` if they hold something of the main script.
    The slot comes last: a relay writes another one over it.
    """

    worker: int
    task: int
    indices: Any
    skip: tuple[int, ...]
    slot: int


class Probe(NamedTuple):
    """Load some samples of a batch, for nobody."""

    worker: int
    task: int
    indices: Any
    positions: tuple[int, ...]


# ---------------------------------------------------------------- from a process


class Ready(NamedTuple):
    """It has imported what it needs."""

    at: float


class Hosted(NamedTuple):
    """A worker is at its place; ``lost`` are generators that could not be put back."""

    worker: int
    states: WorkerStates | None
    finished_at: float
    begin: Any
    compared: int
    lost: tuple[str, ...]


class Diverged(NamedTuple):
    """A worker's dataset gave something else than before (``worker_place.Diverged``)."""

    worker: int
    finished_at: float
    how: str
    at: int
    detail: str


class Resumed(NamedTuple):
    """A worker is in its new epoch, or where it was told to go back to."""

    worker: int
    states: WorkerStates | None
    finished_at: float
    said: bytes | None
    lost: tuple[str, ...]


class Loaded(NamedTuple):
    """A batch. Its pickle stream comes here, or lies in the lease at ``place``.

    ``states`` are None if no generator moved; ``said_at`` is where what the dataset said of its own state lies in the
    lease.
    """

    task: int
    nbytes: int
    stream: bytes
    place: Extent | None
    pieces: Any
    states: WorkerStates | None
    taken_at: float
    finished_at: float
    dropped: tuple[tuple[int, str], ...]
    said_at: Extent | None
    collated_at: float
    digest: bytes


class Empty(NamedTuple):
    """A batch of which policy left nothing."""

    task: int
    states: WorkerStates | None
    taken_at: float
    finished_at: float
    dropped: tuple[tuple[int, str], ...]
    digest: bytes


class Raised(NamedTuple):
    """The dataset, or a function of the user's, raised; or what it gave cannot leave the process."""

    task: int
    error: bytes
    sample: int | None
    unpicklable: bool
    states: WorkerStates | None
    finished_at: float
    digest: bytes
    detail: str


class Ended(NamedTuple):
    """An iterable dataset had nothing left for this task."""

    task: int
    states: WorkerStates | None
    finished_at: float


class Probed(NamedTuple):
    """A probe did no harm."""

    task: int
    finished_at: float


class Cancelled(NamedTuple):
    """A task was not begun."""

    task: int
    finished_at: float


class Refused(NamedTuple):
    """The dataset cannot be rebuilt here."""

    error: bytes


class Left(NamedTuple):
    """A process of a pool is of no use to this loader; it lives on for others."""


class Differs(NamedTuple):
    """Surroundings that cannot be had any more."""

    texts: list[str]


class Shadowed(NamedTuple):
    """It has a shadow. Two descriptors come along: where the shadow listens, and its pidfd.

    ``private`` are the bytes that the shadow before it had to itself.
    """

    pid: int
    private: int
    files: FileQueue | None = None


class Unshadowed(NamedTuple):
    """No shadow can be taken."""

    why: str


class Changed(NamedTuple):
    """The dataset of a worker was seen to change itself, once since the worker was set up."""

    worker: int


class Unchanged(NamedTuple):
    """It is as a new copy of it, after the task whose answer follows."""

    worker: int


OF_WORKER = frozenset({Task, Resume, Rewind, Probe})
"""What a process does in the context of the worker that is named."""
TO_TASK = (Loaded, Empty, Raised, Ended, Cancelled)
"""What a task is answered by."""
FILES: dict[type, int] = {Shadowed: 2}
"""How many descriptors come with a message from a process."""
KINDS: tuple[type[tuple[Any, ...]], ...] = (
    Join, More, Part, Host, Drop, Resume, Rewind, Task, Probe,
    Ready, Hosted, Diverged, Resumed, Loaded, Empty, Raised, Ended, Probed, Cancelled, Refused, Left, Differs, Shadowed,
    Unshadowed, Changed, Unchanged,
)  # fmt: skip
NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
