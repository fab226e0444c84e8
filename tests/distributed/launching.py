"""Real torchrun for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*arguments: str, seconds: float = 200, **variables: str) -> tuple[int, str, str]:
    """Run to the end: exit code, standard output, standard error."""
    running = start(*arguments, **variables)
    try:
        out, err = running.communicate(timeout=seconds)
    except BaseException:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        raise
    return running.returncode, out, err


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start torchrun; the caller ends it, with its group."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        # torch's agent otherwise keeps its store over restarts, and gloo may find the addresses of ranks that are gone.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment,
    )  # fmt: skip
