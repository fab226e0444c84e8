"""Processes on the nodes of a real Ray cluster, all of which are on this machine: ``make test-ray``."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.programs import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1000)]

PROGRAMS = ROOT / "tests" / "remote" / "programs"


def _run(program: str, folder: Path, *given: str) -> dict[str, Any]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: make test-ray")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAMS / program), str(folder), *given], capture_output=True, text=True,
        timeout=960, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    found["log"] = done.stderr
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one program tells of everything that it does on one cluster: starting a cluster takes half a minute."""
    return _run("on_ray.py", tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of a cluster whose nodes are behind a network of their own, which can be cut."""
    if not (shutil.which("ip") and shutil.which("tc") and shutil.which("unshare") and os.geteuid() == 0):
        pytest.skip("no network of its own can be made here: it takes root, ip, tc and unshare")
    return _run("on_nodes.py", tmp_path_factory.mktemp("ray"))


def test_an_epoch_on_the_cluster_is_torchs(told: dict[str, Any]) -> None:
    assert told["calm"]["bytes"] == told["torch"]["bytes"]
    assert told["calm"]["faults"] == []
    assert told["calm"]["there"] == 2


def test_a_program_that_knows_nothing_of_it_has_its_processes_there(told: dict[str, Any]) -> None:
    assert told["unedited"] == {"samples": [[0, 1, 2, 3], [4, 5, 6, 7]], "processes": 2}


def test_a_killed_process_there_costs_no_batch(told: dict[str, Any]) -> None:
    assert told["process killed"]["bytes"] == told["torch"]["bytes"]
    assert told["process killed"]["faults"] == [["died", "SIGKILL"]]


def test_a_killed_process_at_the_end_of_an_encrypted_link_costs_no_batch(told: dict[str, Any]) -> None:
    assert told["encrypted"]["bytes"] == told["torch"]["bytes"]
    assert told["encrypted"]["faults"] == [["died", "SIGKILL"]]
    assert told["encrypted"]["there"] == 2


def test_a_killed_actor_costs_no_batch_and_is_replaced(told: dict[str, Any]) -> None:
    assert told["actor killed"]["bytes"] == told["torch"]["bytes"]
    ((cause, detail),) = told["actor killed"]["faults"]
    assert cause == "died"
    assert "is gone" in detail


def test_a_node_that_is_removed_costs_no_batch_and_counts_once(told: dict[str, Any]) -> None:
    assert told["node removed"]["bytes"] == told["torch"]["bytes"]
    assert len(told["node removed"]["faults"]) == 1
    assert told["node removed"]["restarts"] >= 1


def test_a_full_object_store_is_in_nobodys_way(told: dict[str, Any]) -> None:
    assert told["store full"]["bytes"] == told["torch"]["bytes"]
    assert (told["store full"]["faults"], told["store full"]["there"]) == ([], 2)


def test_where_there_is_no_room_processes_are_here(told: dict[str, Any]) -> None:
    assert told["no room"]["bytes"] == told["torch"]["bytes"]
    assert told["no room"]["faults"] == []
    assert "no room: processes stay on this host: the Ray cluster has no room for 64 CPUs" in told["log"]


def test_without_a_cluster_processes_are_here(told: dict[str, Any]) -> None:
    assert told["dead head"]["bytes"] == told["torch"]["bytes"]
    assert told["dead head"]["faults"] == []
    assert "dead head: processes stay on this host" in told["log"]


def test_processes_go_to_a_node_that_is_added_and_share_one_copy_of_the_dataset(told: dict[str, Any]) -> None:
    added = told["node added"]
    assert added["bytes"] == told["torch"]["bytes"]
    assert (added["before"], added["after"], added["faults"]) == (0, 2, 0)
    assert added["shared"] >= 1


def test_a_trainer_outlives_the_head_of_its_cluster(told: dict[str, Any]) -> None:
    assert told["connected"] == 0  # whoever is, Ray ends
    assert told["head killed"]["bytes"] == told["torch"]["bytes"]
    assert told["head killed"]["there"] == 2


@pytest.mark.parametrize("program", ["", "connected"])  # the other one has called ray.init itself
def test_processes_go_to_a_cluster_whose_head_was_started_again(program: str, tmp_path: Path) -> None:
    restarted = _run("on_new_head.py", tmp_path, program)
    assert restarted["same"]
    before, _, after = restarted["there"]
    assert (before, after) == (2, 2)
    assert all("is gone" in detail for _, detail in restarted["faults"])
    lines = [line for line in restarted["log"].splitlines() if "head restarted: processes stay" in line]
    assert len(lines) == 1, lines
    assert restarted["of job"] == [bool(program)] * 2  # the runtime_env of its job goes along


def test_with_the_trainer_everything_ends_there(told: dict[str, Any]) -> None:
    assert told["trainer killed"]["there before"] == 2
    assert told["trainer killed"]["there after"] == 0


def test_nothing_of_the_cluster_is_left(told: dict[str, Any]) -> None:
    def left(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return str(told["session"]) in " ".join(process.cmdline())
        return False

    assert told["session"]
    assert not [process for process in psutil.process_iter() if left(process)]


@pytest.mark.parametrize("what", ["calm", "hung", "stopped", "slow", "healed", "cut", "blocked", "odd", "other ray"])
def test_batches_are_torchs_whatever_happens_to_a_node(behind: dict[str, Any], what: str) -> None:
    assert behind[what]["bytes"] == behind["torch"]["bytes"]


@pytest.mark.parametrize("what", ["calm", "slow", "healed"])
def test_what_only_costs_time_is_no_fault(behind: dict[str, Any], what: str) -> None:
    assert (behind[what]["faults"], behind[what]["there"]) == ([], 2)


def test_a_link_that_is_cut_for_8_seconds_is_waited_for(behind: dict[str, Any]) -> None:
    assert behind["healed"]["took"] > 8


@pytest.mark.parametrize("what", ["hung", "stopped"])
def test_a_process_there_that_does_nothing_is_replaced(behind: dict[str, Any], what: str) -> None:
    assert {cause for cause, *_ in behind[what]["faults"]} == {what}
    assert what == "stopped" or "__getitem__" in behind[what]["faults"][0][2]


def test_a_link_that_stays_cut_is_one_fault(behind: dict[str, Any]) -> None:
    ((_, detail, _),) = behind["cut"]["faults"]
    assert "nothing was heard" in detail


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("blocked", "timed out"),
        ("odd", "the source of mine ("),
        ("odd", "numpy is 0.0.1 there"),
        ("other ray", "2.9.9"),
    ],
)
def test_a_node_that_is_of_no_use_is_one_line(behind: dict[str, Any], what: str, why: str) -> None:
    assert (behind[what]["faults"], behind[what]["there"]) == ([], 0)
    assert why in "".join(line for line in behind["log"].splitlines() if f"{what}: processes stay" in line)


def test_no_ray_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "main.py"
    program.write_text(
        "import sys\nsys.modules['ray'] = None\n"
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "if __name__ == '__main__':\n"
        "    loader = DataLoader(TensorDataset(torch.arange(8)), num_workers=1, batch_size=4)\n"
        "    print([batch[0].tolist() for batch in loader])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "safeloader", "run", "--hosts", "ray", str(program)],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "[[0, 1, 2, 3], [4, 5, 6, 7]]"
    assert done.stderr.count("[SL039]") == 1
    assert "pip install 'ray>=2.40'" in done.stderr
