"""Everything that is tried on one Ray cluster of three nodes, all on this machine; what happened goes into a file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.cluster_utils import Cluster

import safeloader
from safeloader import DataLoader, Policy, RayHosts
from tests.fixtures_data import Draws
from tests.remote.certificates import CA
from tests.remote.programs.seen import agents, epoch, processes_there, title
from tests.until import until

BATCHES = 40


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


def unedited(folder: Path, address: str) -> dict[str, Any]:
    """A program that knows nothing of safeloader, with one process of two on this host."""
    program = folder / "main.py"
    program.write_text(
        "import os, torch\nfrom torch.utils.data import DataLoader\n"
        "class Parents(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, index): return index, os.getppid()\n"
        "if __name__ == '__main__':\n"
        "    print([[column.tolist() for column in batch] for batch in DataLoader(Parents(), 4, num_workers=2)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "safeloader", "run", "--hosts", "ray", str(program)], env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE, text=True, timeout=120, check=True,
    )  # fmt: skip
    batches = json.loads(done.stdout)
    until(lambda: not agents())
    return {"samples": [batch[0] for batch in batches], "processes": len({batch[1][0] for batch in batches})}


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
    until(lambda: not any(process.is_running() and title(process) for process in before), 30)
    until(lambda: not agents(), 30)
    return {"there before": len(before), "there after": len(processes_there())}


def node_added(cluster: Cluster, address: str) -> dict[str, Any]:
    """Processes find no room, a node is added that has some, and they go there."""
    nodes: list[Any] = []
    hosts = RayHosts(address=address, resources={"late": 1}, patience=15)  # an actor takes a while on a busy machine
    policy = Policy(hosts=hosts, recover_after=5)
    found = []
    with DataLoader(
        Draws(4 * BATCHES), 4, shuffle=True, num_workers=2, policy=policy, name="late", persistent_workers=True
    ) as loader:
        plain = epoch(loader, {0: lambda: found.append(len(processes_there()))})
        nodes.append(cluster.add_node(num_cpus=2, resources={"late": 2}, object_store_memory=80 << 20))
        for _ in range(40):
            torch.manual_seed(7)
            for _ in loader:
                time.sleep(0.1)  # a training step, in which the cluster may do its part
            if len(processes_there()) == 2:
                break
        payloads = [_payloads(process) for process in agents()]
        found.append(len(processes_there()))
        faults = len(loader.report().faults)
    cluster.remove_node(nodes[0])
    return {
        "bytes": plain,
        "before": found[0],
        "after": found[1],
        "faults": faults,
        "shared": len(set.intersection(*payloads)) if payloads else 0,
    }


def _payloads(process: psutil.Process) -> set[int]:
    """The memory files with datasets that an actor holds."""
    held = Path(f"/proc/{process.pid}/fd").iterdir()
    return {file.stat().st_ino for file in held if "spec" in os.readlink(file)}


@contextlib.contextmanager
def store_filled(address: str) -> Iterator[None]:
    """Another program keeps more in the object store than that holds."""
    code = (
        "import sys, numpy, ray\nray.init(address=sys.argv[1], log_to_driver=False)\n"
        "kept = [ray.put(numpy.ones(10 << 20, numpy.uint8)) for _ in range(12)]\n"
        "print('full', flush=True)\nsys.stdin.read(1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        until(lambda: running.stdout.readline() in (b"full\n", b""))  # type: ignore[union-attr]
        try:
            yield
        finally:
            running.kill()


def head_killed() -> None:
    """SIGKILL to the head's server; Ray ends everybody that is connected, in the time that it is told to wait."""
    (server,) = [process for process in psutil.Process().children(recursive=True) if process.name() == "gcs_server"]
    server.kill()
    until(lambda: not [p for p in psutil.Process().children() if "ray_placer" in title(p)])


def main(folder: Path) -> None:
    """Everything."""
    os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "8"  # noqa: SIM112 - Ray's own spelling
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
        told["unedited"] = unedited(folder, address)
        told["process killed"] = run("process killed", hosts, {5: lambda: processes_there()[0].kill()})
        encrypted = RayHosts(address=address, tls=str(Path(CA(folder).host("one").certificate).parent))
        told["encrypted"] = run("encrypted", encrypted, {5: lambda: processes_there()[0].kill()})
        told["actor killed"] = run("actor killed", hosts, {5: lambda: agents()[0].kill()})
        cluster.add_node(num_cpus=2, **small)
        told["node removed"] = run("node removed", hosts, {5: lambda: cluster.remove_node(first)})
        told["no room"] = run("no room", RayHosts(address=address, num_cpus_per_worker=64, patience=3))
        told["node added"] = node_added(cluster, address)
        with store_filled(address):
            told["store full"] = run("store full", hosts)
        told["trainer killed"] = trainer_killed(address)
        told["connected"] = int(ray.is_initialized())
        told["head killed"] = run("head killed", hosts, {5: head_killed})
    finally:
        ray.shutdown()
        cluster.shutdown()
    told["dead head"] = run("dead head", RayHosts(address=address, patience=5))
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    print(safeloader.__file__, time.ctime())
    main(Path(sys.argv[1]))
    os._exit(0)
