"""The ways for systems without memfd, pidfd and signals on hang-up, switched on by an environment variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures_data import Orders
from tests.runtime.harness import digest, end, gone, persistent_epochs, program, run_script, start_script

DEEDS = ["", "SIGKILL", "exit 0", "SIGSTOP", "sleep", "lock in C", "SIGSEGV"]

EPOCHS = """
    import sys
    from safeloader.runtime import system
    from tests.runtime.harness import *
    assert not (system.HAS_MEMFD or system.HAS_PIDFD or system.HAS_SIGNAL_ON_HANGUP)
    orders = Orders(sys.argv[1])
    policy = Policy(batch_timeout=2.0, max_restarts=1000)
    loader = make(Draws(COUNT, orders), persistent_workers=True, policy=policy)
    for epoch, deed in enumerate(sys.argv[2:]):
        if deed:
            orders.give("sample", 24, deed)
        known = len(loader.report().faults)
        played = run_epoch(loader, epoch)
        causes = [fault.cause for fault in loader.report().faults[known:] if fault.sample == 24]
        print(digest(played), *causes)
    loader.close()
    """


def test_the_portable_ways_survive_the_same_faults(tmp_path: Path, orders: Orders) -> None:
    script = program(tmp_path, EPOCHS)
    lines = run_script(script, orders.folder, *DEEDS, _SAFELOADER_PORTABLE="1").splitlines()
    assert [line.split()[0] for line in lines] == [digest(played) for played in persistent_epochs()[: len(DEEDS)]]
    causes = [line.split()[1:2] for line in lines]
    assert causes == [[], ["died"], ["died"], ["stopped"], ["hung"], ["hung"], ["died"]]


def test_the_portable_lifeline_ends_the_processes_of_a_killed_trainer(tmp_path: Path, orders: Orders) -> None:
    orders.give("sample", 4, "wait there")
    script = program(
        tmp_path,
        """
        import sys
        from tests.runtime.harness import *
        list(make(Draws(COUNT, Orders(sys.argv[1])), shuffle=False))
        """,
    )
    running = start_script(script, orders.folder, _SAFELOADER_PORTABLE="1")
    pid = orders.await_arrival("there")
    running.kill()
    end(running, 60)
    assert gone([pid])


POOL = """
    import sys
    from safeloader import WorkerPool
    from tests.runtime.harness import *
    orders = Orders(sys.argv[1])
    with WorkerPool(2) as pool:
        policy = Policy(pool=pool, batch_timeout=2.0, max_restarts=1000)
        train, val = (make(Draws(COUNT, o), persistent_workers=True, policy=policy) for o in (orders, None))
        for epoch, deed in enumerate(sys.argv[2:]):
            orders.give("sample", 24, deed)
            print(digest(run_epoch(train, epoch)), digest(run_epoch(val, epoch)), len(val.report().faults))
    """


@pytest.mark.slow
def test_a_pool_survives_the_same_faults_the_portable_way(tmp_path: Path, orders: Orders) -> None:
    script = program(tmp_path, POOL)
    lines = run_script(script, orders.folder, *DEEDS[1:], _SAFELOADER_PORTABLE="1").splitlines()
    expected = [digest(played) for played in persistent_epochs()[: len(DEEDS) - 1]]
    assert [line.split() for line in lines] == [[epoch, epoch, "0"] for epoch in expected]
