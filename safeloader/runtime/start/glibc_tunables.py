"""How the memcpy of a process writes large rows: past the caches.

A batch of images is larger than what a worker has of the caches. To overwrite memory by ordinary stores, a processor
fetches it first. glibc's memcpy avoids that above a size that it derives from the last cache: hundreds of MB on a
server, of which a worker has a small share. With the size below, two workers collate batches of 256 × 3 × 224 × 224
uint8 1.5 times as fast, of 64 × 3 × 224 × 224 float32 1.6 times, of 64 × 3 × 224 × 224 uint8 as fast as before; a
consumer that reads the first two is 1.3 times as fast (Intel Xeon; ``python -m benchmarks.speed --only throughput``).

The variable is read by glibc as the interpreter starts, and ``os.environ`` is put back before anything is imported:
programs that a dataset starts have the trainer's. Other C libraries and processors ignore it. Who names this size in
``GLIBC_TUNABLES`` himself is not overruled.
"""

from __future__ import annotations

__all__ = ["environment"]

_VARIABLE = "GLIBC_TUNABLES"
_THRESHOLD = "glibc.cpu.x86_non_temporal_threshold"
_BYTES = 1 << 17  # below an image of 3 × 224 × 224 bytes; what fits into a core's own cache should stay there


def environment(trainers: dict[str, str]) -> dict[str, str]:
    """The environment with which a process is started; it puts ``os.environ`` back first of all."""
    given = trainers.get(_VARIABLE, "")
    if _THRESHOLD in given:
        return dict(trainers)
    return {**trainers, _VARIABLE: ":".join(filter(None, (given, f"{_THRESHOLD}={_BYTES}")))}
