"""A Ray cluster whose nodes are behind a network of their own (a namespace), which can be cut, and blocks ports.

One node is as it should be. On the other, a module and a package's version are others, and a folder is empty.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from ray.cluster_utils import Cluster

from benchmarks.hosts.network import HERE, INSIDE, THERE, network, ports_blocked, switch
from safeloader import DataLoader, Policy, RayHosts
from tests.fixtures_data import Draws, Orders
from tests.remote.programs.seen import agents, children_of, epoch, processes_there
from tests.until import until

BATCHES = 40
CUT = 8.0
_MEMORY = 80 << 20
_PORTS = {"node-manager-port": 20001, "object-manager-port": 20002, "min-worker-port": 20010, "max-worker-port": 20200}


@contextlib.contextmanager
def node(address: str, name: str, offset: int, prefix: tuple[str, ...] = ()) -> Iterator[None]:
    """A node on the other side, which has this resource."""
    ports = [f"--{port}={number + offset}" for port, number in _PORTS.items()]
    with subprocess.Popen(
        [*INSIDE, *prefix, str(Path(sys.executable).parent / "ray"), "start", f"--address={address}", "--block",
         f"--node-ip-address={THERE}", "--num-cpus=2", f"--object-store-memory={_MEMORY}", "--disable-usage-stats",
         "--resources", json.dumps({name: 2}), *ports],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            told: list[str] = []
            while "Ray runtime started" not in "".join(told[-1:]):  # two that start at a time may take the same names
                told.append(running.stdout.readline())
                assert told[-1], told
            threading.Thread(target=running.stdout.read, daemon=True).start()
            yield
        finally:
            running.terminate()


def other_host(mine: Path, data: Path) -> tuple[str, ...]:
    """What begins a program that sees another file, another version of numpy, and nothing in a folder."""
    version = importlib.metadata.distribution("numpy")._path  # type: ignore[attr-defined]
    (mine.parent / "other.py").write_text("factor = 2\n")
    (mine.parent / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    bound = f"mount --bind {mine.parent}/other.py {mine} && mount --bind {mine.parent}/METADATA {version}/METADATA"
    return "unshare", "-m", "sh", "-c", f'{bound} && mount -t tmpfs none {data} && exec "$@"', "sh"


class Named(Draws):
    """Names a file."""

    def __init__(self, count: int, file: Path) -> None:
        super().__init__(count)
        self.file = str(file)


def run(name: str, at: dict[int, Callable[[], object]], data: Any = None, wants: str = "far", **given: Any) -> Any:
    """One loader's epoch, as `on_ray.run`."""
    hosts = RayHosts(address=ADDRESS[0], resources={wants: 1}, patience=30, **given)
    policy = Policy(hosts=hosts, max_restarts=100, batch_timeout=6)
    there: list[int] = []
    with DataLoader(data or Draws(4 * BATCHES), 4, shuffle=True, num_workers=2, policy=policy, name=name) as loader:
        begun = time.monotonic()
        found = epoch(loader, {0: lambda: there.append(len(processes_there())), **at})
        took, report = time.monotonic() - begun, loader.report()
    switch("up")
    until(lambda: not agents(), 90)
    faults = [[fault.cause, fault.detail, fault.stack] for fault in report.faults]
    return {"bytes": found, "faults": faults, "there": there[0], "took": took}


ADDRESS: list[str] = []


def cut(seconds: float) -> None:
    """Nothing gets through for so long."""
    switch("down")
    threading.Timer(seconds, switch, ("up",)).start()


@contextlib.contextmanager
def slowed() -> Iterator[None]:
    """Whatever serves loaders over there has a fifth of the time."""
    ends = threading.Event()

    def slow() -> None:
        while not ends.wait(0.05):
            for one in (stopped := [one for agent in agents() for one in [agent, *children_of(agent)]]):
                _signal(one, signal.SIGSTOP)
            time.sleep(0.2)
            for one in stopped:
                _signal(one, signal.SIGCONT)

    slowing = threading.Thread(target=slow)
    slowing.start()
    try:
        yield
    finally:
        ends.set()
        slowing.join()


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


@contextlib.contextmanager
def of_another_version() -> Iterator[None]:
    """A cluster whose head is one of another version of Ray."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # names of sockets are short
    program = folder / "head.py"
    program.write_text("import ray\nray.__version__ = '2.9.9'\nfrom ray.scripts.scripts import main\nmain()\n")
    port = "26379"
    subprocess.run(
        [sys.executable, str(program), "start", "--head", f"--port={port}", f"--node-ip-address={HERE}", "--num-cpus=2",
         f"--object-store-memory={_MEMORY}", "--include-dashboard=false", "--disable-usage-stats",
         f"--temp-dir={folder}/r"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    own, ADDRESS[0] = ADDRESS[0], f"{HERE}:{port}"
    try:
        yield
    finally:
        ADDRESS[0] = own
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if f"{folder}/r/" in " ".join(process.cmdline()):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def main(folder: Path) -> None:
    """Everything."""
    logging.basicConfig(level=logging.INFO)
    data, code, orders = (folder / name for name in ("data", "code", "orders"))
    for place in (data, code, orders):
        place.mkdir()
    mine = code / "mine.py"
    mine.write_text("factor = 1\n")
    (data / "file").touch()
    sys.path.insert(0, str(code))
    __import__("mine")
    told: dict[str, Any] = {}
    with network(), contextlib.ExitStack() as held:
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _MEMORY, "node_ip_address": HERE}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        held.callback(cluster.shutdown)
        ADDRESS.append(cluster.address)
        held.enter_context(node(cluster.address, "far", 0))
        held.enter_context(node(cluster.address, "odd", 500, other_host(mine, data)))
        plain = torch.utils.data.DataLoader(
            Draws(4 * BATCHES), 4, shuffle=True, num_workers=2, multiprocessing_context="spawn"
        )
        told["torch"] = {"bytes": epoch(plain, {})}
        told["calm"] = run("calm", {}, Named(4 * BATCHES, data / "file"))
        told["odd"] = run("odd", {}, Named(4 * BATCHES, data / "file"), wants="odd")
        sys.modules.pop("mine")
        gives = Orders(orders)
        gives.give("sample", 50, "lock")
        told["hung"] = run("hung", {}, Draws(4 * BATCHES, gives))
        told["stopped"] = run("stopped", {5: lambda: processes_there()[0].send_signal(signal.SIGSTOP)})
        with slowed():
            told["slow"] = run("slow", {})
        told["healed"] = run("healed", {5: lambda: cut(CUT)})
        with ports_blocked(32768):
            told["blocked"] = run("blocked", {})
        with of_another_version():
            told["other ray"] = run("other ray", {})
        told["cut"] = run("cut", {5: lambda: switch("down")}, silence=4)
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)
