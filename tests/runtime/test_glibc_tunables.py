"""Processes copy large rows past their caches, and nobody sees how they were told so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safeloader import DataLoader, Policy

pytestmark = pytest.mark.fresh  # glibc reads it when an interpreter starts
OURS = "glibc.cpu.x86_non_temporal_threshold=131072"


class Environment(torch.utils.data.Dataset[tuple[str, str, str]]):
    """What glibc was told in this process, what Python says, and what a program has that is started here."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[str, str, str]:
        begun = Path("/proc/self/environ").read_bytes().decode().removeprefix("GLIBC_TUNABLES=")
        entries = begun.replace("\0GLIBC_TUNABLES=", "\0").split("\0")  # glibc ends each of its values by a zero
        told = ":".join(entry for entry in entries if entry.startswith("glibc."))
        program = "import os; print(os.environ.get('GLIBC_TUNABLES', 'unset'))"
        inside = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return told, os.environ.get("GLIBC_TUNABLES", "unset"), inside.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, OURS),
        ("glibc.malloc.perturb=0", f"glibc.malloc.perturb=0:{OURS}"),
        ("glibc.cpu.x86_non_temporal_threshold=4194304", "glibc.cpu.x86_non_temporal_threshold=4194304"),
    ],
)
def test_only_glibc_is_told(monkeypatch: pytest.MonkeyPatch, start_method: str, given: str | None, told: str) -> None:
    if given is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    policy = Policy(start_method=start_method)
    with DataLoader(Environment(), batch_size=None, num_workers=1, policy=policy) as loader:
        assert list(loader) == [[told, given or "unset", given or "unset"]]
