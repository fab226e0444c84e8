"""Checks of accelerators, and of what the kernel has said about them and about dying processes."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from safeloader.doctor.finding import Finding, Verdict
from safeloader.observe.format import inline, many

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CHECKS", "Symptom", "accelerators", "kernel", "troubles"]


class Symptom(NamedTuple):
    """Lines of the kernel log that are known to go with trouble."""

    pattern: str
    bad: bool
    means: str


KNOWN = (
    Symptom(
        r"amdgpu_amdkfd_restore_userptr_worker.* hogged CPU", True,
        "the AMD driver restores user memory mappings for long: training has stood still for hours after this line. "
        "Fewer mapping changes help: spawned persistent workers, no pinned-memory churn",
    ),
    Symptom(r"amdgpu.*(ring .* timeout|GPU reset|MES failed)", True, "the AMD driver lost its GPU"),
    Symptom(r"NVRM: Xid", True, "the NVIDIA driver reported a fault (look the Xid number up)"),
    Symptom(r"(Out of memory: Killed|Memory cgroup out of memory: Killed|oom-kill:)", False,
            "processes were killed for memory"),
    Symptom(r"blocked for more than \d+ seconds", False, "a process stood in the kernel: storage or a driver hangs"),
    Symptom(r"nfs: server .* not responding", False, "a network file system did not answer"),
    Symptom(r"(I/O error|EXT4-fs error|XFS .* error|Buffer I/O)", False, "a disk or file system failed"),
    Symptom(r"python.*segfault at|traps: python", False, "a Python process crashed in C code"),
)  # fmt: skip


def troubles(lines: Iterable[str]) -> list[tuple[Symptom, int, str]]:
    """Each kind of trouble in these lines of a kernel log, how often, and its last line."""
    found: dict[Symptom, tuple[int, str]] = {}
    for line in lines:
        for trouble in KNOWN:
            if re.search(trouble.pattern, line):
                found[trouble] = (found.get(trouble, (0, ""))[0] + 1, line.strip())
    return [(trouble, count, last) for trouble, (count, last) in found.items()]


def kernel(lines: list[str] | None = None) -> Finding:
    """What the kernel log holds of known trouble."""
    if lines is None:
        lines = _log()
    if lines is None:
        hint = "ask for it as root (dmesg), or allow it: sysctl kernel.dmesg_restrict=0"
        return Finding("kernel log", "unknown", "the kernel log may not be read here", hint)
    found = troubles(lines)
    if not found:
        return Finding("kernel log", "ok", f"no known trouble in {many(len(lines), 'line')}")
    worst = sorted(found, key=lambda item: not item[0].bad)
    text = "; ".join(f"{trouble.means} ({many(count, 'line')})" for trouble, count, _ in worst)
    text += f"; the last: {inline(worst[0][2], 160)}"
    verdict: Verdict = "bad" if worst[0][0].bad else "warn"
    return Finding("kernel log", verdict, text, "compare the times with those of your run: dmesg -T")


def _log() -> list[str] | None:
    for command in (["dmesg"], ["journalctl", "-k", "-b", "--no-pager", "-q"]):
        try:
            ran = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if ran.returncode == 0 and ran.stdout:
            return ran.stdout.splitlines()
    return None


def accelerators() -> Finding:
    """The accelerators that torch sees; asked without making a context on any."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    found = []
    if torch.cuda.is_available():
        kind = "ROCm" if torch.version.hip else "CUDA"
        found.append(f"{many(torch.cuda.device_count(), kind + ' device')}")
    if torch.backends.mps.is_available():
        found.append("MPS")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found.append(many(torch.xpu.device_count(), "XPU device"))
    if found:
        return Finding("accelerators", "ok", ", ".join(found) + "; hidden from worker processes by default")
    built = torch.version.cuda or torch.version.hip
    if built and any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/kfd")):
        text = f"torch is built for {built}, the driver's device file is there, but torch sees no device"
        return Finding("accelerators", "warn", text, "compare nvidia-smi or rocminfo; check CUDA_VISIBLE_DEVICES")
    return Finding("accelerators", "ok", "none; training runs on the CPU, which it shares with the workers")


CHECKS = (("accelerators", accelerators), ("kernel log", kernel))
