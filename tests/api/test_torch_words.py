"""Programs and launchers that look for torch's words in the error that ends a loader find them."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from torch.utils.data import Dataset

from safeloader import BadSampleError, DataLoader, Policy, SafeLoaderError
from safeloader.observe.events import Fault
from safeloader.observe.torch_words import in_torchs_words

KILLED = r"DataLoader worker \(pid \d+\) is killed by signal: "
SAID: dict[str, tuple[Callable[[], Any], str]] = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), KILLED + r"Killed\."),
    "bus error": (lambda: os.kill(os.getpid(), signal.SIGBUS), KILLED + r"Bus error\. .*out of shared memory\."),
    "exits": (
        lambda: os._exit(3),
        r"DataLoader worker \(pid \d+\) exited unexpectedly with exit code 3\. Details are lost due to multiprocessing",
    ),
    "hangs": (lambda: time.sleep(1000), "DataLoader timed out after 1 seconds"),
}


class Ends(Dataset[int]):
    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        SAID[self.how][0]()
        return index


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("how", SAID)
@pytest.mark.parametrize(
    ("policy", "kind"),
    [(Policy(bad_sample_attempts=1), BadSampleError), (Policy(max_restarts=0, fallback="off"), SafeLoaderError)],
    ids=["a bad sample", "too many faults"],
)
def test_an_error_has_the_line_of_torch_s(how: str, policy: Policy, kind: type[SafeLoaderError]) -> None:
    with (
        DataLoader(Ends(how), num_workers=1, timeout=1 if how == "hangs" else 0, policy=policy) as loader,
        pytest.raises(kind, match=SAID[how][1]) as raised,
    ):
        list(loader)
    assert isinstance(raised.value, RuntimeError)
    assert raised.value.in_torch in str(raised.value)
    assert "\n" not in raised.value.in_torch


def test_what_is_not_known_of_an_end_is_not_said() -> None:
    def said(cause: str, detail: str, timeout: float | None = None, stalled: float | None = None) -> str:
        fault = Fault(0.0, "train", cause, process=7, detail=detail, stalled=stalled)
        return in_torchs_words(fault, timeout)

    assert said("died", "how is not known") == "DataLoader worker (pid(s) 7) exited unexpectedly"
    assert said("oom", "memory is short") == "DataLoader worker (pid 7) is killed by signal: Killed."
    assert said("hung", "", stalled=2.5) == "DataLoader timed out after 2.5 seconds"
    assert said("stopped", "", timeout=120.0, stalled=130.0) == "DataLoader timed out after 120 seconds"


def test_other_errors_say_nothing_of_torch_s() -> None:
    assert not re.search("torch:", str(SafeLoaderError("something else", hint="this")))
