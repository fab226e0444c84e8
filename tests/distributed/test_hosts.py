"""Ranks on several hosts: a link is cut and healed, and the board says whose."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.hosts import Hosts, why_not
from tests.programs import Program

SOON = {"SAFELOADER_STALL_REPORT": "2", "SAFELOADER_BOARD_INTERVAL": "0.2", "GLOO_SOCKET_IFNAME": "eth0"}


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    why = why_not()
    if why:
        pytest.skip(why)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [2, 3])
def test_a_rank_behind_a_cut_link_is_named_and_all_go_on_when_it_is_healed(tmp_path: Path, count: int) -> None:
    with Hosts(count) as hosts, contextlib.ExitStack() as running:
        nodes = [
            running.enter_context(Program(hosts.command(number, _torchrun(number, count, hosts, tmp_path)), **SOON))
            for number in range(count)
        ]
        last = count - 1
        nodes[0].line("step 20")
        top = hosts.command(0, [sys.executable, "-m", "safeloader", "top", "--once"])
        shown = subprocess.run(top, capture_output=True, text=True, timeout=90, check=True).stdout
        assert all(f"rank {number} (host-{number}): train, epoch 0" in shown for number in range(count)), shown
        hosts.cut(last)
        line = nodes[0].line(f"rank {last} on host-{last} has published nothing for ")
        assert "it is stopped, gone or cut off (last seen: train, epoch 0, batch " in line
        others = "rank 0 on host-0 waits" if count == 2 else "ranks 0, 1 wait"
        assert line.endswith(f"; {others} in the step [SL034]")
        nodes[last].line(f"the store of the process group ({hosts.address(0)}:")
        hosts.heal(last)
        nodes[0].line(_step_after(nodes[0]))
        (tmp_path / "end").touch()
        nodes[0].line("the last rank publishes")
        nodes[0].line(f"rank {last} (host-{last}): train, epoch 0, batch ")
        assert [node.wait() for node in nodes] == [0] * count
        assert not any("Traceback" in line for node in nodes for line in node.lines)


def _step_after(node: Program) -> str:
    """The words of one that is not there yet, some steps after the last that is."""
    last = next(line for line in reversed(node.lines) if line.startswith("step "))
    return f"step {int(last.split()[1]) + 10}"


def _torchrun(number: int, count: int, hosts: Hosts, folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(count), "--node-rank", str(number),
        "--nproc-per-node", "1", "--master-addr", hosts.address(0), "--master-port", "29477",
        "-m", "tests.distributed.linked", str(folder),
    ]  # fmt: skip
