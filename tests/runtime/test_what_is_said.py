"""What the log, the report and errors say is true when it is said, and a stranger can read it. All of it by real faults."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import TensorDataset

from safeloader import BadSampleError, DataLoader, Policy, SafeLoaderError, SettingsError
from tests.fixtures_data import CollateDiesWith, Draws, Orders
from tests.programs import run
from tests.runtime.harness import COUNT, make, processes_of
from tests.until import until

forked = pytest.mark.usefixtures("forked")
QUICK = Policy(batch_timeout=1.0, bad_sample_attempts=1, max_restarts=100, max_processes=1)


def _lines(caplog: pytest.LogCaptureFixture, code: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "code", "") == code]


# ---------------------------------------------------------------- what is known only later


@forked
@pytest.mark.parametrize(("deed", "code"), [("SIGKILL", "SL001"), ("sleep", "SL003")])
def test_the_last_attempt_promises_no_other(
    orders: Orders, caplog: pytest.LogCaptureFixture, deed: str, code: str
) -> None:
    orders.give("sample", 9, deed, always=True)
    loader = make(Draws(COUNT, orders), shuffle=False, policy=QUICK)
    with pytest.raises(BadSampleError) as caught:
        list(loader)
    first, last = _lines(caplog, code)
    assert "a new process takes over and loads this batch again" in first.getMessage()
    assert (first.levelname, last.levelname) == ("WARNING", "ERROR")
    assert "not tried again, and BadSampleError is raised" in last.getMessage()
    assert "takes over" not in last.getMessage()
    assert "no batch is lost" not in caplog.text
    assert [fault.verdict for fault in loader.report().faults] == ["again", "raised"]
    assert "lost:  this batch" in str(loader.report())
    story = caught.value.story
    assert re.fullmatch(r" +-\d+\.\d{3} s  the batch is sent to process \d+, for worker 0", story[0])
    assert re.search(r"process \d+ (died \(SIGKILL\)|hung, after .* s without progress)", story[-1])
    assert story[-1].endswith(", attempt 2: BadSampleError is raised at its turn")
    assert not any(re.search(r"\w+\(\w+=", line) for line in story), "internal records are shown"


@forked
def test_a_sample_that_is_left_out_is_said_to_be(orders: Orders, caplog: pytest.LogCaptureFixture) -> None:
    orders.give("sample", 9, "SIGKILL", always=True)
    policy = Policy(bad_sample_attempts=1, max_restarts=100, max_processes=1, on_bad_sample="skip")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=policy)
    list(loader)
    assert "the sample is left out of its batch" in _lines(caplog, "SL001")[-1].getMessage()
    assert [fault.verdict for fault in loader.report().faults] == ["again", "skipped"]


@forked
def test_a_batch_whose_sample_is_not_known_is_said_to_be_searched(caplog: pytest.LogCaptureFixture) -> None:
    loader = make(Draws(COUNT), shuffle=False, policy=QUICK, collate_fn=CollateDiesWith(9))
    with pytest.raises(BadSampleError, match="sample 9"):
        list(loader)
    verdicts = [fault.verdict for fault in loader.report().faults]
    assert verdicts[:2] == ["again", "searched"]
    assert verdicts[-1] == "raised"
    assert "loads parts of this batch, to find the sample" in caplog.text


@forked
def test_a_fault_that_ends_the_loader_says_so_and_the_error_names_it(
    orders: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    orders.give("sample", 8, "SIGKILL")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=Policy(max_restarts=0, fallback="off"))
    with pytest.raises(
        SafeLoaderError, match=r"too many faults.*was killed by SIGKILL while loading batch 2 of"
    ) as caught:
        list(loader)
    (line,) = _lines(caplog, "SL001")
    assert (line.levelname, line.getMessage().rpartition("; ")[2]) == ("ERROR", "the loader ends with an error [SL001]")
    assert caught.value.code == "SL202"
    assert not any(re.search(r"\w+\(\w+=", line) for line in caught.value.story)


@forked
def test_a_fault_that_leads_to_fewer_processes_says_so_and_the_cause_is_in_the_line(
    orders: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    orders.give("sample", 8, "SIGKILL")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=Policy(max_restarts=0))
    list(loader)
    assert loader.report().faults[0].action == "fell back to 1 process"
    assert "the loader falls back to 1 process and loads this batch again" in _lines(caplog, "SL001")[0].getMessage()
    assert "(too many faults, the last: SIGKILL)" in _lines(caplog, "SL013")[0].getMessage()


FEW_FILES = """
import os, resource, torch
from safeloader import DataLoader
loader = DataLoader(torch.utils.data.TensorDataset(torch.arange(24.0)), batch_size=4, num_workers=2, name="train")
for batch in DataLoader(torch.utils.data.TensorDataset(torch.arange(24.0)), batch_size=4, num_workers=2, name="before"):
    pass  # all that is imported late is there
loader.report()
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
held = []
while True:
    try:
        held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        break
for descriptor in held[-10:]:
    os.close(descriptor)
print(len(list(loader)))
print(loader.report())
"""


def test_running_out_of_descriptors_is_told_as_that() -> None:
    done = run("-c", FEW_FILES)
    assert done.out.startswith("6\n"), done.err
    fallbacks = [line for line in done.err.splitlines() if "[SL013]" in line]
    assert fallbacks
    assert all("Too many open files (the limit of open files, ulimit -n, is 128)" in line for line in fallbacks)


@forked
def test_that_no_batch_is_lost_is_said_when_it_is_known(orders: Orders, caplog: pytest.LogCaptureFixture) -> None:
    orders.give("sample", 9, "SIGKILL")
    with caplog.at_level(logging.INFO, "safeloader"):
        list(make(Draws(COUNT, orders), shuffle=False, policy=QUICK))
    assert "no batch is lost" not in _lines(caplog, "SL001")[0].getMessage()
    (came,) = _lines(caplog, "SL012")
    assert came.getMessage().endswith("; no batch is lost [SL012]")


# ---------------------------------------------------------------- wrong facts


@forked
def test_a_signal_of_the_loaders_own_is_no_detail_of_a_hang(orders: Orders) -> None:
    orders.give("sample", 9, "sleep")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=QUICK)
    list(loader)
    (fault,) = loader.report().faults
    assert (fault.cause, fault.detail) == ("hung", "")
    assert "SIGKILL" not in str(loader.report())


@forked
def test_a_process_that_was_stopped_while_idle_was_not_silent_for_no_time(caplog: pytest.LogCaptureFixture) -> None:
    loader = make(Draws(COUNT), persistent_workers=True, policy=QUICK)
    list(loader)
    (process,) = processes_of(loader)
    process.suspend()
    assert until(lambda: process.status() == psutil.STATUS_STOPPED)
    list(loader)
    (line,) = _lines(caplog, "SL004")
    assert "was found stopped (SIGSTOP or a debugger) while no batch was in work; " in line.getMessage()
    assert "0.0 s" not in line.getMessage()
    assert "silent" not in str(loader.report())


def test_bars_and_lines_count_epochs_alike(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELOADER_PROGRESS", "1")
    loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=4, name="train")
    for _ in range(2):
        list(loader)
    told = capsys.readouterr().err
    assert [number for number in ("0", "1", "2") if f"train, epoch {number} begins" in told] == ["0", "1"]
    state = loader.state_dict()
    again = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=4, name="train")
    again.load_state_dict(state)
    list(again)
    assert "train, epoch 2 begins" in capsys.readouterr().err


def test_the_report_names_its_percentiles() -> None:
    loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=4, num_workers=1, name="train")
    list(loader)
    text = str(loader.report())
    assert re.search(r"a batch: p50 \S+ \S+, p95 \S+ \S+, p99 \S+ \S+\n", text)
    assert "(p50 / p95 / p99):" in text
    assert "%, 99" not in text


@forked
def test_torchs_suggestion_comes_as_often_as_from_torch_for_the_loader_alone() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loader = make(Draws(8), num_workers=512, policy=Policy(max_processes=1))
        list(loader)
        list(loader)
    assert len([w for w in warned if "suggested max number of worker" in str(w.message)]) == 1


@forked
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_module_of_preload_that_cannot_be_had_is_told(method: Any) -> None:
    policy = Policy(preload=("nomodule", "json"), start_method=method)
    with pytest.warns(UserWarning, match=r"no module that can be found: nomodule \[SL103\]") as warned:
        list(make(Draws(8), policy=policy))
    assert len([w for w in warned if "nomodule" in str(w.message)]) == 1


def test_preload_without_a_fork_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELOADER_STRICT", "1")
    monkeypatch.setenv("SAFELOADER_PRELOAD", "json")
    with pytest.raises(SettingsError, match="preload has no effect: processes are spawned") as caught:
        list(make(Draws(8)))
    assert caught.value.code == "SL103"


def test_a_module_that_the_fork_server_cannot_import_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_on_import.py").write_text("raise ValueError('not today')")
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = Policy(preload=("breaks_on_import",), start_method="forkserver")
    with pytest.warns(UserWarning, match=r"cannot import breaks_on_import.*\(ValueError: not today\)"):
        list(make(Draws(8), policy=policy))
