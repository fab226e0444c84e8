"""A trainer that was suspended: time in which it did not run is no worker's fault; a hang during a long step is."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy, clock

pytestmark = [pytest.mark.usefixtures("forked"), pytest.mark.timeout(120)]


class Steps(Dataset[torch.Tensor]):
    """Each sample takes so many seconds, in small steps: while its process is stopped, none is done."""

    def __init__(self, seconds: float, hangs_at: int | None = None) -> None:
        self.seconds, self.hangs_at = seconds, hangs_at

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        for _ in range(round(self.seconds / 0.05)):
            time.sleep(0.05)
        if index == self.hangs_at and not os.path.exists(os.environ["ONCE"]):
            open(os.environ["ONCE"], "w").close()
            time.sleep(1000)
        return torch.tensor(index)


def suspended(seconds: float, everyone: bool) -> None:
    """A fork stops this process (and its workers) for a while: it is continued first, they a little later."""
    trainer, me = psutil.Process(), os.getpid()
    workers = [p.pid for p in trainer.children(recursive=True)] if everyone else []
    pid = os.fork()
    if pid == 0:
        for victim in [me, *workers]:
            os.kill(victim, signal.SIGSTOP)
        time.sleep(seconds)
        for victim in [me, *workers]:
            os.kill(victim, signal.SIGCONT)
            time.sleep(0.1)
        os._exit(0)
    threading.Thread(target=os.waitpid, args=(pid, 0)).start()


@pytest.fixture
def once(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCE", f"{tmp_path}/once")


@pytest.mark.usefixtures("once")
def test_a_job_that_is_suspended_for_longer_than_the_deadline_has_no_hung_worker() -> None:
    """Neither where the trainer is in next() when it is stopped, nor where it is in its step."""
    loaders = [DataLoader(Steps(0.6), num_workers=1, batch_size=1, policy=Policy(batch_timeout=4)) for _ in range(2)]
    waiting: list[int] = []
    thread = threading.Thread(target=lambda: waiting.extend(int(batch) for batch in loaders[0]))
    thread.start()
    stepping = []
    for batch in loaders[1]:
        stepping.append(int(batch))
        if len(stepping) == 2:
            suspended(5.5, True)
            time.sleep(0.7)
    thread.join()
    assert waiting == stepping == list(range(6))
    for loader in loaders:
        assert loader.report().faults == []
        loader.close()


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("computing", [False, True], ids=["the step waits", "the step holds Python's lock"])
def test_a_hang_during_a_long_step_is_seen_at_once(computing: bool) -> None:
    loader = DataLoader(Steps(0.01, hangs_at=2), num_workers=1, batch_size=1, policy=Policy(batch_timeout=2.5))
    got = []
    for batch in loader:
        got.append(int(batch))
        if len(got) == 1:
            if computing:
                before = sys.getswitchinterval()
                sys.setswitchinterval(1000)
                end = time.monotonic() + 4.5
                while time.monotonic() < end:
                    pass
                sys.setswitchinterval(before)
            else:
                time.sleep(4.5)
    assert got == list(range(6))
    [fault] = loader.report().faults
    assert fault.cause == "hung" and fault.stalled is not None and fault.stalled > 3
    loader.close()


def test_the_clock_leaves_out_what_the_program_did_not_run() -> None:
    clock.start()
    before, raw = clock.now(), time.monotonic()
    suspended(5, False)
    while time.monotonic() < raw + 5.3:
        time.sleep(0.05)
    assert clock.now() - before < 3
    assert clock.at(raw) == pytest.approx(before, abs=0.2)
    assert clock.at(raw + 2) <= clock.now()
