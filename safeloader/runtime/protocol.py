"""The words on the channel: tuples that begin with one of these numbers.

To a process, once: ``(JOIN, number, HostConfig, facts, moved, count)`` with ``count`` descriptors: the spec's file, the
arena, the working directory if it ``moved``, and those that the spec's objects share with the trainer; what does not
fit comes with ``(MORE,)``. ``facts`` are surroundings that differ from those that it was started with, or None. Then
``(HOST, WorkerPlace)``, ``(DROP, worker)``, ``(RESUME, worker, shared_seed, epoch, told_epoch)``,
``(REWIND, worker, states)``, which is answered by RESUMED,
``(TASK, worker, task, indices, skip, slot)``, ``(PROBE, worker, task, indices, positions)``.
``indices`` are ``Packed`` unless they are plain numbers, and ``Carried`` if they hold something of the main script.

From a process: ``(READY, at)``, ``(HOSTED, worker, states, finished_at, begin, compared, lost)``,
``(DIVERGED, worker, finished_at, how, at, detail)``,
``(RESUMED, worker, states, finished_at, said, lost)``,
``(LOADED, task, nbytes, stream, place, pieces, states, taken_at, finished_at, dropped, said_at, collated_at,
digest)``:
the pickle stream comes in the message, or lies in the lease at ``place``; ``said_at`` is where what the dataset said of
its own state lies in the lease; ``collated_at`` comes only where each batch is traced. ``states`` are ``WorkerStates``
wherever they come, or None if no generator moved;
``(EMPTY, ...)`` like LOADED for a batch of which policy left nothing;
``(RAISED, task, error, sample, unpicklable, states, finished_at, digest)``, ``(ENDED, task, states, finished_at)``,
``(PROBED, task, finished_at)``, ``(PASSED, task, finished_at)``,
``(DIFFERS, texts)`` for surroundings that cannot be had any more, ``(REFUSED, error)``, and from a pool's, which lives
on for others, ``(LEFT,)``.
``(SHADOWED, pid, private, seconds)`` comes with two descriptors: where the shadow listens, and its pidfd; ``private``
are the bytes that the shadow before it had to itself, ``seconds`` what taking it cost. ``(UNSHADOWED, why)``: none can
be taken. ``(CHANGED, worker)``: the dataset of a worker was seen to change itself, once since the worker was set up;
``(UNCHANGED, worker)``: it is as a new copy of it, after the task whose answer follows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

HOST, DROP, RESUME, TASK, PROBE, JOIN, MORE, REWIND = range(8)
READY, HOSTED, RESUMED, LOADED, EMPTY, RAISED, ENDED, PROBED, REFUSED, LEFT, CANCELLED, DIFFERS, DIVERGED = range(
    10, 23
)
SHADOWED, UNSHADOWED, CHANGED, UNCHANGED = range(23, 27)

WorkerStates = tuple[int, Any]
"""A worker, and its ``States`` or ``Advanced``: the latter without ``base`` where the process told it before."""

FILES = {SHADOWED: 2}
"""How many descriptors come with a message."""

STREAM_IN_MESSAGE = 4096
"""A pickle stream of at most so many bytes travels in the message; a longer one lies in the lease."""


class Packed(NamedTuple):
    """Something small that any interpreter can read, pickled (``indices.pack``)."""

    data: bytes


class Carried(NamedTuple):
    """Something small, serialised by value."""

    data: bytes
