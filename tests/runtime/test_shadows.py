"""Shadows: whatever a dataset changes in itself survives its process, to the byte."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader

from safeloader import DataLoader, Policy, WorkerPool
from safeloader.core import new_copy
from safeloader.runtime.shadow.taker import Pace
from tests.changing_data import AROUND, MAPS, OUTSIDE, Everything, Map, Streamed, write_files
from tests.fixtures_data import Draws, Orders
from tests.hidden_data import HIDDEN, Hidden, set_up
from tests.runtime.harness import TORCHS, Epoch, driver_of, end, gone, play, processes_of, program, seed, start_script
from tests.until import until

TIMEOUT = 2.0


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changing")
    write_files(folder)
    return folder


@functools.cache
def torchs(folder: Path, kind: str) -> list[Epoch]:
    """Two epochs of torch's, undisturbed, with persistent workers."""
    dataset: Any = Everything(folder) if kind == "map" else Streamed(folder)
    loader = TorchLoader(
        dataset, batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context=TORCHS,
        shuffle=kind == "map" or None,
    )  # fmt: skip
    return _epochs(loader)


def _epochs(loader: Any) -> list[Epoch]:
    played = []
    for epoch in range(2):
        seed(epoch)
        played.append(play(loader))
    return played


def make(dataset: Any, **policy: Any) -> DataLoader[Any]:
    asked: dict[str, Any] = {"batch_timeout": TIMEOUT, "max_restarts": 1000, **policy}
    shuffle = None if isinstance(dataset, Streamed) else True
    return DataLoader(
        dataset, batch_size=4, num_workers=2, persistent_workers=True, name="train", shuffle=shuffle,
        policy=Policy(**asked),
    )  # fmt: skip


def shadow_pids(loader: DataLoader[Any]) -> list[int]:
    return [pid for iterator in loader._safe.iterators for pid in driver_of(iterator).loop.shadows.pids]


def await_shadows(loader: DataLoader[Any], iterator: Any) -> None:
    """Wait until both processes have told of one."""
    until(lambda: driver_of(iterator).loop.look(0.01) or len(shadow_pids(loader)) == 2)


def kill_processes(iterator: Any) -> None:
    """SIGKILL to those that serve an iterator now, and wait until they are gone."""
    pids = [process.pid for process in driver_of(iterator).processes.values() if process.pid]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    gone(pids)


def disturbed(loader: DataLoader[Any], deeds: dict[int, Callable[[], object]]) -> list[Epoch]:
    """Two epochs; after so many batches of both, something is done."""
    count = 0

    def batches() -> Iterator[Any]:
        nonlocal count
        for batch in loader:
            count += 1
            yield batch
            deeds.get(count, int)()

    played = []
    for epoch in range(2):
        seed(epoch)
        played.append(play(batches()))
    return played


def restored(loader: DataLoader[Any]) -> int:
    return sum(fault.action == "restored" for fault in loader.report().faults)


# ---------------------------------------------------------------- to the byte

SLOW = pytest.mark.slow  # three deadlines; the other kind of dataset has the same fault


@pytest.mark.parametrize("deed", ["SIGKILL", "exit 7", "sleep", pytest.param("SIGSTOP", marks=SLOW), "SIGSEGV"])
def test_all_that_a_map_style_dataset_changes_in_itself_survives(
    forked: None, files: Path, orders: Orders, deed: str
) -> None:
    for index in (3, 31, 55):
        orders.give("sample", index, deed)
    with make(Everything(files, orders=orders)) as loader:
        assert _epochs(loader) == torchs(files, "map")
        assert restored(loader) >= 2  # of the first task of all nothing has changed yet


@pytest.mark.parametrize("deed", ["SIGKILL", "exit 7", pytest.param("sleep", marks=SLOW), "SIGSTOP", "SIGSEGV"])
def test_all_that_an_iterable_dataset_changes_in_itself_survives(
    forked: None, files: Path, orders: Orders, deed: str
) -> None:
    for key in ("0-2", "1-17", "0-29"):
        orders.give("stream", key, deed)
    with make(Streamed(files, orders=orders)) as loader:
        assert _epochs(loader) == torchs(files, "stream")
        assert restored(loader) == 2  # the first kill comes in a first task: nothing has changed yet


@pytest.mark.parametrize("dataset", [Everything, Streamed])
def test_too_many_faults_do_not_lower_what_would_lose_it(
    forked: None, files: Path, caplog: pytest.LogCaptureFixture, dataset: Any
) -> None:
    with make(dataset(files), max_restarts=0) as loader:

        def kill_one() -> None:
            processes_of(loader)[0].kill()

        played = disturbed(loader, dict.fromkeys((5, 9, 20, 25), kill_one))
        assert played == torchs(files, "map" if dataset is Everything else "stream")
        report = loader.report()
        assert (report.rung, report.fallbacks) == (2, 0)
        assert len(report.faults) >= 3
    assert "too many faults for 2 processes; they stay" in caplog.text


@pytest.mark.parametrize("dataset", [Everything, Streamed])
def test_processes_that_are_spawned_have_shadows_too(files: Path, dataset: Any) -> None:
    with make(dataset(files), start_method="spawn") as loader:

        def kill_one() -> None:
            processes_of(loader)[0].kill()

        played = disturbed(loader, {5: kill_one, 9: kill_one, 20: kill_one})
        assert played == torchs(files, "map" if dataset is Everything else "stream")
        assert restored(loader) >= 2


@pytest.mark.parametrize("kind", [*MAPS, *OUTSIDE, *AROUND])
def test_each_kind_of_state_is_seen_to_change_and_survives(
    forked: None, files: Path, orders: Orders, kind: str
) -> None:
    seed()
    undisturbed = play(make(Map(kind, files)))
    for index in (13, 42):
        orders.give("sample", index, "SIGKILL")
    with make(Map(kind, files, orders=orders)) as loader:
        seed()
        assert play(loader) == undisturbed
        assert loader.report().shadows > 0


def test_a_shuffle_without_a_seed_gives_each_sample_once(forked: None, files: Path, orders: Orders) -> None:
    for key in ("0-12", "1-17", "0-29"):
        orders.give("stream", key, "SIGKILL")
    with make(Streamed(files, orders=orders, seeded=False)) as loader:
        indices = [int(row[0]) for batch in loader for row in batch]
        assert sorted(indices) == list(range(60))
        assert restored(loader) == 3


def test_a_sample_that_always_kills_is_found_and_the_others_are_as_without_it(
    forked: None, files: Path, orders: Orders
) -> None:
    orders.give("sample", 17, "SIGKILL", always=True)
    with make(Map("Counter", files, orders=orders), on_bad_sample="skip") as loader:
        seed()
        rows = [row.tolist() for batch in loader for row in batch]
        assert sorted(row[0] for row in rows) == [i for i in range(60) if i != 17]
        counts = sorted(row[1] for row in rows)  # of two workers, one of which has left a sample out
        assert counts == sorted([*range(1, 33), *range(1, 28)]) or counts == sorted([*range(1, 32), *range(1, 29)])
        assert [skip[2] for skip in loader.report().skipped] == [17]


# ---------------------------------------------------------------- faults of shadows


def test_a_shadow_that_is_killed_costs_nothing_while_its_process_lives(forked: None, files: Path) -> None:
    with make(Streamed(files)) as loader:

        def kill() -> None:
            for pid in shadow_pids(loader):
                os.kill(pid, signal.SIGKILL)

        assert disturbed(loader, {6: kill}) == torchs(files, "stream")
        assert loader.report().faults == []


def test_a_process_and_its_shadow_killed_together_leave_the_ordinary_way(forked: None, files: Path) -> None:
    with make(Streamed(files)) as loader:

        def kill_both() -> None:
            for pid in shadow_pids(loader):
                os.kill(pid, signal.SIGKILL)
            processes_of(loader)[0].kill()

        # Read again from its beginning, in a copy of the dataset as it was then: right for the first epoch.
        seed()
        assert play(_with(loader, {6: kill_both})) == torchs(files, "stream")[0]
        assert len(loader.report().faults) >= 1


LOST = "what the dataset had changed in itself (a cache, a counter) is lost with its process"
WITHOUT = ["no shadow", "killed together", "pool"]


def _without_shadows(files: Path, how: str, deeds: dict[int, Callable[[DataLoader[Any]], object]]) -> tuple[Any, Any]:
    """An epoch of a counter whose process is lost after some batches, and its report."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(2, start_method="forkserver")) if how == "pool" else None
        policy = Policy(max_restarts=9, shadow=False if how == "no shadow" else "auto", pool=pool)
        dataset = Map("Counter", files)
        loader = stack.enter_context(DataLoader(dataset, batch_size=4, num_workers=2, shuffle=True, policy=policy))
        seed()
        batches = play(_with(loader, {number: functools.partial(deed, loader) for number, deed in deeds.items()}))
        return batches.batches, loader.report()


def _kill_with_shadows(loader: DataLoader[Any]) -> None:
    for pid in shadow_pids(loader):
        os.kill(pid, signal.SIGKILL)
    processes_of(loader)[0].kill()


def _kill_the_first(loader: DataLoader[Any]) -> None:
    processes_of(loader)[0].kill()


@pytest.mark.parametrize("how", WITHOUT)
def test_without_a_shadow_a_new_copy_is_brought_to_what_the_lost_one_was(
    forked: None, files: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    undisturbed, _ = _without_shadows(files, how, {})
    batches, report = _without_shadows(files, how, {1: _kill_with_shadows, 6: _kill_with_shadows})
    assert batches == undisturbed
    assert report.faults and report.replays == []
    assert LOST not in caplog.text


class Late(Draws):
    """It begins to change after a while: its process has looked before, and seen nothing.

    What it holds is much, so that the next look is far off.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.seen, self.names = 0, [f"image {number}" for number in range(60_000)]

    def __getitem__(self, index: int) -> Any:
        if index >= 34:
            self.seen += 1
        return torch.tensor([index, self.seen])


@pytest.mark.parametrize("pool", [False, True])
def test_a_change_that_nobody_has_seen_yet_is_made_again(forked: None, pool: bool) -> None:
    undisturbed = [batch.tolist() for batch in TorchLoader(Late(80), 4, num_workers=1, multiprocessing_context=TORCHS)]
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(WorkerPool(1, start_method="forkserver")) if pool else None
        policy = Policy(max_restarts=99, pool=shared)
        loader = stack.enter_context(DataLoader(Late(80), 4, num_workers=1, prefetch_factor=1, policy=policy))
        kills = dict.fromkeys((9, 10, 12, 15), functools.partial(_kill_the_first, loader))
        assert [batch.tolist() for batch in _with(loader, kills)] == undisturbed
        assert loader.report().faults and loader.report().replays == []


class Named(Draws):
    """Its samples have names, of any kind, and it counts them."""

    seen = 0

    def __getitem__(self, name: Any) -> Any:
        self.seen += 1
        return torch.tensor([int(name[0]), self.seen])


@pytest.mark.parametrize("name", [lambda number: (number, "left"), str], ids=["tuples", "strings"])
def test_a_change_is_made_again_in_the_trainer_whatever_samples_are_called(forked: None, name: Any) -> None:
    names = [name(number % 10) for number in range(40)]
    torchs_own = TorchLoader(Named(40), 4, sampler=names, num_workers=2, multiprocessing_context=TORCHS)
    undisturbed = [batch.tolist() for batch in torchs_own]
    policy = Policy(max_restarts=0, shadow=False, bad_sample_attempts=99)  # some are killed while they are set up
    with DataLoader(Named(40), 4, sampler=names, num_workers=2, policy=policy) as loader:
        iterator = iter(loader)
        batches = [next(iterator) for _ in range(4)]
        while loader.report().rung:
            kill_processes(iterator)
            driver_of(iterator).loop.look(0.01)
        assert [batch.tolist() for batch in [*batches, *iterator]] == undisturbed
        assert loader.report().replays == []


@pytest.mark.parametrize("how", WITHOUT)
def test_what_a_map_style_dataset_had_changed_is_not_lost_without_a_word(
    forked: None, files: Path, caplog: pytest.LogCaptureFixture, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_copy, "MOST", 1)
    undisturbed, _ = _without_shadows(files, how, {})
    batches, report = _without_shadows(files, how, {6: _kill_with_shadows})
    assert batches != undisturbed, "the case shows nothing"
    assert ("lost", "dataset") in [(replay.outcome, replay.source) for replay in report.replays]
    assert LOST in caplog.text
    assert "not exact" in str(report)


def test_a_dataset_that_has_changed_in_the_trainer_stays_there(forked: None, files: Path) -> None:
    dataset = Map("Counter", files)
    seed()
    undisturbed = play(make(dataset)).batches
    policy = Policy(max_restarts=0, recover_after=2, shadow=False)
    with DataLoader(dataset, batch_size=4, num_workers=2, shuffle=True, policy=policy) as loader:
        seed()
        iterator = iter(loader)
        while loader.report().rung:  # before a process has done anything, so that nothing is lost
            kill_processes(iterator)
            driver_of(iterator).loop.look(0.01)
        assert play(iterator).batches == undisturbed
        report = loader.report()
    assert (report.rung, report.recoveries, report.replays) == (0, 0, [])


@pytest.mark.parametrize("kind", ["Numpy", "OldNumpy", "Python", "Torch"])
def test_random_generators_of_a_dataset_are_no_such_change(forked: None, files: Path, kind: str) -> None:
    with make(Map(kind, files), shadow=False) as loader:  # that of "Torch" is made with the first sample
        play(_with(loader, {6: lambda: processes_of(loader)[0].kill()}))
        assert loader.report().faults
        assert loader.report().replays == []


def _with(loader: Any, deeds: dict[int, Callable[[], object]]) -> Iterator[Any]:
    for number, batch in enumerate(loader, 1):
        yield batch
        deeds.get(number, int)()


def test_a_successor_may_be_lost_and_so_may_its_successor(forked: None, files: Path) -> None:
    with make(Streamed(files)) as loader:

        def kill_them_all_three_times() -> None:
            for _ in range(3):
                kill_processes(iterator)
                next_batch.append(next(iterator))

        next_batch: list[Any] = []
        seed()
        iterator = iter(loader)
        first = [next(iterator) for _ in range(4)]
        await_shadows(loader, iterator)
        kill_them_all_three_times()
        played = play([*first, *next_batch, *iterator])
        assert played.batches == torchs(files, "stream")[0].batches


def test_a_shadow_that_is_stopped_is_given_up(forked: None, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safeloader.core import deadlines

    monkeypatch.setattr(deadlines, "FORK_TIMEOUT", 0.5)
    with make(Streamed(files)) as loader:

        def stop_and_kill() -> None:
            for pid in shadow_pids(loader):
                os.kill(pid, signal.SIGSTOP)
            processes_of(loader)[0].kill()

        seed()
        assert play(_with(loader, {6: stop_and_kill})) == torchs(files, "stream")[0]


# ---------------------------------------------------------------- what a shadow is


def test_a_shadow_has_a_session_and_a_score_of_its_own_and_ends_with_its_loader(forked: None, files: Path) -> None:
    loader = make(Streamed(files))
    iterator = iter(loader)
    next(iterator)
    await_shadows(loader, iterator)
    pids = shadow_pids(loader)
    for pid in pids:
        until(lambda pid=pid: Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000")
        assert os.getsid(pid) == pid
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
    for process in processes_of(loader):
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() != "1000"
    loader.close()
    assert gone(pids)


def test_a_successor_is_a_process_like_any_other(forked: None, files: Path) -> None:
    with make(Streamed(files)) as loader:
        iterator = iter(loader)
        next(iterator)
        await_shadows(loader, iterator)
        reads: list[dict[int, list[str]]] = []  # more is open while a process copies itself

        def is_settled() -> bool:
            reads.append({p.pid: _open(p.pid) for p in processes_of(loader)})
            return reads[-50:] == [reads[-1]] * 50

        until(is_settled)
        before = reads[-1]
        score = [Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in before]
        kill_processes(iterator)
        for _ in range(6):
            next(iterator)
        after = processes_of(loader)
        assert not {p.pid for p in after} & before.keys()
        until(lambda: [_open(p.pid) for p in after] == list(before.values()))  # more while it copies itself
        assert [Path(f"/proc/{p.pid}/oom_score_adj").read_text() for p in after] == score
        blocked = [_signals(p.pid, "SigBlk") for p in after]
        assert blocked == [0, 0]
        assert restored(loader) == 2


def _open(pid: int) -> list[str]:
    """What a process has open, besides the pidfd of a shadow."""
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    return sorted(re.sub(r":\[\d+\]", "", link) for link in links if "pidfd" not in link)


def _signals(pid: int, which: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(which)), 16)


PROGRAM = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from safeloader import DataLoader, Policy
    from tests.changing_data import Streamed
    from tests.runtime.test_shadows import shadow_pids
    from tests.runtime.harness import driver_of, processes_of

    if __name__ == "__main__":
        loader = DataLoader(Streamed(Path({files!r})), batch_size=4, num_workers=2, policy=Policy(start_method="forkserver"))
        iterator = iter(loader)
        for _ in range(3):
            next(iterator)
        while len(shadow_pids(loader)) < 2:
            driver_of(iterator).loop.look(0.01)
        processes_of(loader)[0].kill()
        for _ in range(6):
            next(iterator)
        print(*shadow_pids(loader), *(p.pid for p in processes_of(loader)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_trainer_that_is_killed_leaves_no_shadow(files: Path, tmp_path: Path) -> None:
    from tests.runtime.harness import ROOT

    running = start_script(program(tmp_path, PROGRAM.format(root=str(ROOT), files=str(files))))
    _, out, err = end(running, 90)
    pids = [int(word) for word in out.split()]
    assert len(pids) == 4, err
    assert gone(pids)


def test_the_next_copy_waits_until_the_last_one_has_paid() -> None:
    pace = Pace()
    pace.taken(0.02, now=100.0)  # 0.5 % of the time until the next one: 4 s
    assert (pace.due(False, 103.9), pace.due(False, 104.1)) == (False, True)
    assert pace.due(True, 100.5), "of a new epoch: 5 %"
    pace.copied(pages=196_000)  # 5 microseconds each: 1 s
    assert (pace.due(False, 295.0), pace.due(False, 301.0)) == (False, True)
    assert (pace.due(True, 119.0), pace.due(True, 121.0)) == (False, True)


# ---------------------------------------------------------------- when there is none


def test_a_dataset_that_does_not_change_has_none(forked: None) -> None:
    from tests.fixtures_data import Draws

    with make(Draws(46)) as loader:
        play(loader)
        assert (loader.report().shadows, loader.report().unshadowed) == (0, "")


def test_policy_may_want_none_or_some(forked: None, files: Path) -> None:
    from tests.fixtures_data import Draws

    with make(Streamed(files), shadow=False) as loader:
        play(loader)
        assert loader.report().shadows == 0
        assert "not restored after a fault: a stream that is not the same" in str(loader.report())
    with make(Draws(46), shadow=True) as loader:
        play(loader)
        assert (loader.report().shadows, loader.report().uncovered) == (2, "")


@pytest.mark.parametrize("why", ["Policy(shadow=False)", "its processes are a pool's", "Policy(sample_rng=True)"])
def test_the_report_says_beforehand_what_would_not_be_restored(forked: None, files: Path, why: str) -> None:
    policy: dict[str, Any] = {"shadow": False} if "shadow" in why else {"sample_rng": True} if "rng" in why else {}
    with contextlib.ExitStack() as stack:
        if "pool" in why:
            policy["pool"] = stack.enter_context(WorkerPool(2, start_method="forkserver"))
        loader = stack.enter_context(make(Map("Counter", files), **policy))
        next(iter(loader))
        told = loader.report().uncovered
    assert told.startswith(f"what the dataset changes in itself while it loads (a cache, a counter): {why}")


@pytest.mark.parametrize(
    ("have", "why"),
    [
        ("socket", "a connection"),
        ("pipe", "a pipe"),
        ("thread", "thread"),
        ("program", "a program"),
        ("event", "eventfd"),
    ],
)
def test_what_cannot_be_copied_is_named_once(
    forked: None, files: Path, have: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.changing_data import Holding

    with make(Holding(files, have), shadow="auto") as loader:
        with caplog.at_level("INFO", "safeloader"):
            play(loader)
        assert loader.report().shadows == 0
        assert why in loader.report().unshadowed
        assert sum("cannot keep a sleeping copy" in message for message in caplog.messages) == 1
        assert why in str(loader.report())


# ---------------------------------------------------------------- changes that hardly show


def test_what_changes_where_it_hardly_shows_survives_as_well(forked: None, orders: Orders) -> None:
    """In the middle of large containers, in iterators and other objects written in C, in generators of C's."""
    torch_loader = TorchLoader(
        Hidden(), batch_size=4, num_workers=2, multiprocessing_context=TORCHS, shuffle=True, worker_init_fn=set_up
    )
    seed()
    undisturbed = play(torch_loader)
    for index in (13, 42):
        orders.give("sample", index, "SIGKILL")
    policy = Policy(max_restarts=1000)
    loader = DataLoader(
        Hidden(orders=orders), batch_size=4, num_workers=2, shuffle=True, worker_init_fn=set_up, policy=policy
    )
    with loader:
        seed()
        assert play(loader) == undisturbed
        assert loader.report().shadows > 0


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_cannot_be_looked_into_has_a_shadow(forked: None, orders: Orders, kind: Any) -> None:
    asked: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "worker_init_fn": set_up}
    seed()
    undisturbed = play(DataLoader(Hidden([kind]), **asked))
    seed()
    orders.give("sample", 30, "SIGKILL")
    with DataLoader(Hidden([kind], orders), **asked, policy=Policy(max_restarts=1000)) as loader:
        assert play(loader) == undisturbed
        assert loader.report().shadows > 0


def test_a_successor_has_shadows_of_its_own_and_its_end_is_known(forked: None, orders: Orders, files: Path) -> None:
    """Else each recovery would do again all that came since the first copy."""
    with make(Map("Counter", files, 400_000, orders)) as loader:
        iterator = iter(loader)
        next(iterator)
        await_shadows(loader, iterator)
        known = set(shadow_pids(loader))
        kill_processes(iterator)
        next(iterator)
        until(lambda: next(iterator) is not None and len(set(shadow_pids(loader)) - known) == 2, 120.0)
        assert {fault.cause for fault in loader.report().faults} == {"died"}
        kill_processes(iterator)
        until(lambda: next(iterator) is not None and len(loader.report().faults) >= 4)
        assert all("SIGKILL" in fault.detail for fault in loader.report().faults), loader.report().faults
