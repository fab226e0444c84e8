"""Everything that is tried on one Ray cluster of three nodes, all on this machine; what happened goes into a file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.cluster_utils import Cluster

import safeloader
from safeloader import DataLoader, Policy, RayHosts
from tests.fixtures_data import Draws
from tests.until import until

BATCHES = 40


def agents() -> list[psutil.Process]:
    """The actors, wherever they are."""
    return [process for process in psutil.process_iter() if "ray::HostAgent" in _title(process)]


def processes_there() -> list[psutil.Process]:
    """Those that serve loaders, children of actors."""
    return [child for agent in agents() for child in _children(agent) if "process_main" in _title(child)]


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.Error:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def epoch(loader: Any, at: dict[int, Callable[[], object]]) -> str:
    """An epoch, with something done after so many batches."""
    torch.manual_seed(7)
    found = hashlib.sha256()
    for number, batch in enumerate(loader):
        found.update(batch.numpy().tobytes())
        at.get(number, int)()
    return found.hexdigest()


def run(name: str, hosts: RayHosts | None, at: dict[int, Callable[[], object]] | None = None) -> dict[str, Any]:
    """One loader's epoch."""
    there: list[int] = []
    policy = Policy(hosts=hosts, max_restarts=100)
    with DataLoader(Draws(4 * BATCHES), 4, shuffle=True, num_workers=2, policy=policy, name=name) as loader:
        found = epoch(loader, {0: lambda: there.append(len(processes_there())), **(at or {})})
        report = loader.report()
    until(lambda: not agents())
    faults = [[fault.cause, fault.detail] for fault in report.faults]
    return {"bytes": found, "faults": faults, "restarts": report.restarts, "there": there[0]}


def trainer_killed(address: str) -> dict[str, int]:
    """Another program on the cluster is killed in the middle of an epoch."""
    code = (
        "import sys, torch\nfrom safeloader import DataLoader, Policy, RayHosts\nfrom tests.fixtures_data import Draws\n"
        "if __name__ == '__main__':\n"
        "    policy = Policy(hosts=RayHosts(address=sys.argv[1]))\n"
        "    for batch in DataLoader(Draws(10_000), batch_size=2, num_workers=2, policy=policy):\n"
        "        print('here', flush=True)\n        sys.stdin.read(1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"here\n"
        before = until(processes_there)
        running.kill()
    until(lambda: not any(process.is_running() and _title(process) for process in before), 30)
    until(lambda: not agents(), 30)
    return {"there before": len(before), "there after": len(processes_there())}


def main(folder: Path) -> None:
    """Everything."""
    logging.basicConfig(level=logging.INFO)
    small: Any = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    told: dict[str, Any] = {}
    try:
        first = cluster.add_node(num_cpus=2, **small)
        address = cluster.address
        told["session"] = cluster.head_node.get_session_dir_path()
        hosts = RayHosts(address=address)
        plain = torch.utils.data.DataLoader(
            Draws(4 * BATCHES), 4, shuffle=True, num_workers=2, multiprocessing_context="spawn"
        )
        told["torch"] = {"bytes": epoch(plain, {})}
        told["calm"] = run("calm", hosts)
        told["process killed"] = run("process killed", hosts, {5: lambda: processes_there()[0].kill()})
        told["actor killed"] = run("actor killed", hosts, {5: lambda: agents()[0].kill()})
        cluster.add_node(num_cpus=2, **small)
        told["node removed"] = run("node removed", hosts, {5: lambda: cluster.remove_node(first)})
        told["no room"] = run("no room", RayHosts(address=address, num_cpus_per_worker=64, patience=3))
        told["trainer killed"] = trainer_killed(address)
    finally:
        ray.shutdown()
        cluster.shutdown()
    told["dead head"] = run("dead head", RayHosts(address=address, patience=5))
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    print(safeloader.__file__, time.ctime())
    main(Path(sys.argv[1]))
    os._exit(0)
