"""How often ranks publish, and when: what keeps the store's load bounded however many they are.

All ranks together publish at most `MOST_A_SECOND` rows a second: 1,000 ranks every 5 seconds, 10,000 every 50. They
take turns, spread over the interval by the golden ratio, so that no two of them begin together.
"""

from __future__ import annotations

__all__ = ["MOST_A_SECOND", "interval", "silent_after", "turn"]

MOST_A_SECOND = 200.0
_GOLDEN = 0.6180339887498949


def interval(world: int, least: float) -> float:
    """Seconds between two rows of one rank, of so many ranks; ``least`` where they are few."""
    return max(least, world / MOST_A_SECOND)


def turn(rank: int, every: float) -> float:
    """Seconds until a rank's first row: rank 0 at once, the others spread over the interval."""
    return (rank * _GOLDEN) % 1.0 * every


def silent_after(every: float) -> float:
    """Seconds without a new row after which a rank that publishes so often is silent."""
    return 2 * every + 1.0
