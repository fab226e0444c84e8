"""How much memory a process has to itself."""

from __future__ import annotations

__all__ = ["own_memory"]


def own_memory(pid: int) -> int | None:
    """Bytes that would be free if the process ended (USS); None if it is gone, or the system does not tell."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return sum(int(line.split()[1]) << 10 for line in file if line.startswith(b"Private_"))
    except (OSError, ValueError, IndexError):
        return None
