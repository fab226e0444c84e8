"""In the middle of an epoch the head of a cluster is killed and another is started at its address; the actors are lost.

With ``connected``, the program has called ``ray.init`` itself.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster

from safeloader import DataLoader, Policy, RayHosts
from safeloader.remote import ray_placer
from tests.fixtures_data import Draws
from tests.remote.programs.seen import agents, epoch, processes_there
from tests.until import until

BATCHES = 40
_MOST_EPOCHS = 60
_SMALL: Any = {"object_store_memory": 80 << 20}


def main(folder: Path, connected: bool) -> None:
    """Tell how many processes were there before, after, and in the end."""
    ray_placer._PAUSE = 5.0
    logging.basicConfig(level=logging.INFO)
    clusters = [Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **_SMALL})]
    head = {"num_cpus": 0, "include_dashboard": False, "gcs_server_port": int(clusters[0].address.rpartition(":")[2])}
    clusters[0].add_node(num_cpus=2, **_SMALL)
    if connected:
        ray.init(address=clusters[0].address, log_to_driver=False, runtime_env={"env_vars": {"SAFELOADER_OF_JOB": "1"}})
    settings: dict[str, Any] = {"shuffle": True, "num_workers": 2, "persistent_workers": True}
    plain = torch.utils.data.DataLoader(Draws(4 * BATCHES), 4, multiprocessing_context="spawn", **settings)
    expected = [epoch(plain, {}) for _ in range(_MOST_EPOCHS)]
    there: list[int] = []

    def look() -> None:
        there.append(len(processes_there()))

    def restart() -> None:
        look()
        clusters[0].head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        clusters.append(Cluster(initialize_head=True, head_node_args={**head, **_SMALL}))
        clusters[1].add_node(num_cpus=2, **_SMALL)
        for agent in agents():
            agent.kill()

    policy = Policy(hosts=RayHosts(address=clusters[0].address), recover_after=5, max_restarts=100)
    found = []
    with DataLoader(Draws(4 * BATCHES), 4, policy=policy, name="head restarted", **settings) as loader:
        pace = dict.fromkeys(range(BATCHES), lambda: time.sleep(0.05))  # a training step: the cluster does its part
        found.append(epoch(loader, {**pace, 5: restart}))
        look()
        while len(processes_there()) < 2 and len(found) < _MOST_EPOCHS:
            found.append(epoch(loader, pace))
        look()
        of_job = ["SAFELOADER_OF_JOB" in agent.environ() for agent in agents()]
        faults = [[fault.cause, fault.detail] for fault in loader.report().faults]
    until(lambda: not agents())
    told = {"same": found == expected[: len(found)], "there": there, "faults": faults, "of job": of_job}
    (folder / "told.json").write_text(json.dumps(told))
    for cluster in clusters[::-1]:
        for node in cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "connected" in sys.argv)
    os._exit(0)  # nothing more is asked of Ray: it would end a program that was connected to the first head
