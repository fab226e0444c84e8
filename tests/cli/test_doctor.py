"""What the doctor finds on this machine, in made-up control groups and kernel logs, and in loaders."""

from __future__ import annotations

import ast
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader.cli.finding import find_loader
from safeloader.doctor import devices, examine, machine, software, subject
from safeloader.doctor.cgroups import Limits, limits
from safeloader.doctor.scaling import Rate, counts, measure, recommend
from safeloader.doctor.subject import Timing
from tests.cli.conftest import parsed

TIMING = Timing(8, 0.01, 0.02, 3, 0.001, 0.0001, None, 4096)


# ---------------------------------------------------------------- the machine


def test_the_machine_is_looked_at_and_told_in_lines(command: Callable[..., Any]) -> None:
    said = command("doctor")
    assert said.exit_code in (0, 1), said.output
    for check in (
        "versions",
        "memory",
        "/dev/shm",
        "oom_kill",
        "processors",
        "descriptors",
        "TMPDIR",
        "FFCV",
        "kernel log",
    ):
        assert f" {check}: " in said.stdout
    assert "torch 2." in said.stdout
    assert ("bad" in said.stdout.splitlines()[-1]) == bool(said.exit_code)


@pytest.mark.slow
def test_the_findings_as_json_have_a_verdict_each(command: Callable[..., Any]) -> None:
    told = parsed(command("doctor", "--json"))
    assert told["v"] == 1
    assert {finding["verdict"] for finding in told["checks"]} <= {"ok", "warn", "bad", "unknown"}
    assert len({finding["check"] for finding in told["checks"]}) == len(told["checks"]) > 12


@pytest.mark.slow
def test_something_bad_is_the_exit_status(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELOADER_BATCH_TIMEOT", "3")
    said = command("doctor")
    assert said.exit_code == 1
    assert "SAFELOADER_BATCH_TIMEOT is not a setting" in said.stdout
    assert "1 bad" in said.stdout


def test_a_check_that_fails_is_unknown_and_the_next_is_made() -> None:
    def fails() -> Any:
        raise OSError("not here")

    first, second = examine([("the first", fails), ("versions", software.versions)])
    assert (first.verdict, first.text) == ("unknown", "this check failed: OSError: not here")
    assert second.verdict == "ok"


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Callable[..., Limits]]:
    def make(own: str, **files: str) -> Limits:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "root" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return limits(tmp_path / "root", tmp_path / "own")

    return make  # type: ignore[return-value]


def test_limits_of_version_2_are_the_tightest_on_the_way_up(groups: Callable[..., Limits]) -> None:
    found = groups(
        "0::/job/step\n", job__memory_DOT_max="1000\n", job__memory_DOT_current="900\n", job__step__memory_DOT_max="max\n",
        job__cpu_DOT_max="150000 100000\n", job__step__cpu_DOT_max="max 100000\n", job__step__pids_DOT_max="64\n",
    )  # fmt: skip
    assert found == Limits(1000, 900, 1.5, 64)


def test_limits_of_version_1_are_found_by_controller(groups: Callable[..., Limits]) -> None:
    found = groups(
        "4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n", memory__box__memory_DOT_limit_in_bytes="5000",
        memory__box__memory_DOT_usage_in_bytes="10", memory__memory_DOT_limit_in_bytes="9223372036854771712",
        cpu__box__cpu_DOT_cfs_quota_us="50000", cpu__box__cpu_DOT_cfs_period_us="100000",
    )  # fmt: skip
    assert found == Limits(5000, 10, 0.5, None)


def test_nothing_readable_means_no_limit(tmp_path: Path) -> None:
    assert limits(tmp_path, tmp_path / "no") == Limits()


def test_memory_is_judged_by_the_tighter_of_machine_and_group() -> None:
    gib = machine.GIB
    assert machine.memory(Limits(memory=gib, memory_used=gib - gib // 50)).verdict == "bad"
    assert machine.memory(Limits(memory=gib, memory_used=gib - gib // 10)).verdict == "warn"
    assert "control group" in machine.memory(Limits(memory=gib, memory_used=0)).text


def test_processors_descriptors_and_processes_are_judged_against_what_is_needed() -> None:
    assert machine.cpus(8, 2.0).verdict == "warn"
    assert "set num_workers=2" in machine.cpus(8, 2.0).hint
    assert machine.cpus(2, 2.0).verdict == "ok"
    assert [machine.descriptors(n).verdict for n in (64, 1024, 65536)] == ["bad", "warn", "ok"]
    assert machine.processes(Limits(processes=32)).verdict == "warn"
    assert f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}" in machine.descriptors().text


def test_a_long_or_unwritable_tmpdir_is_told(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    assert machine.temporary(str(long)).verdict == "warn"
    assert "too long" in machine.temporary(str(long)).text
    assert machine.temporary(str(tmp_path / "missing")).verdict == "bad"
    assert machine.shm(str(tmp_path / "missing")).verdict == "unknown"


def test_lines_of_the_kernel_log_are_known(tmp_path: Path) -> None:
    amd = "[9] workqueue: amdgpu_amdkfd_restore_userptr_worker [amdgpu] hogged CPU for >10000us 4 times"
    killed = "[8] Memory cgroup out of memory: Killed process 9 (python)"
    found = devices.kernel([killed, amd, "[7] usb: a mouse"])
    assert found.verdict == "bad"
    assert "AMD driver restores" in found.text
    assert "hogged CPU" in found.text
    assert "killed for memory (1 line)" in found.text
    assert devices.kernel([amd.replace(" [amdgpu]", "")]).verdict == "bad"  # as older kernels write it
    assert devices.kernel([killed]).verdict == "warn"
    assert devices.kernel(["[7] usb: a mouse"]).verdict == "ok"


def test_an_ffcv_that_does_not_work_is_told_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffcv").mkdir()
    (tmp_path / "ffcv" / "__init__.py").write_text("raise ImportError('libffcv.so: undefined symbol')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = software.try_ffcv()
    assert (found.verdict, "libffcv.so: undefined symbol" in found.text) == ("bad", True)
    assert software.ffcv().verdict == "ok", "it is not tried unless that is asked for"
    assert software.try_ffcv("import time; time.sleep(60)", 0.5).verdict == "bad"


def test_its_own_threads_are_not_told_as_the_programs(process: Callable[..., Any], programs: Path) -> None:
    """torch itself starts some; those that count are the ones that the program's own code has started."""
    assert "thread" not in software.start_method().text
    threaded = parsed(process("doctor", f"{programs}/loaders.py:threaded", "--seconds", 1, "--workers", 1, "--json"))
    (found,) = (one for one in threaded["checks"] if one["check"] == "start method")
    assert "has started 3 threads" in found["text"]
    assert found["verdict"] == "warn"


def _hints() -> Iterator[tuple[str, str]]:
    """Every advice in the source, by the place where it stands."""
    for path in sorted(Path(machine.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            given: list[ast.expr] = []
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "hint" for t in node.targets):
                given = [node.value]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                given = node.args[3:4]
            for value in given:
                text = ast.unparse(value).lstrip("f").strip("'\"")
                if not isinstance(value, (ast.Name, ast.Attribute)):
                    yield f"{path.name}:{value.lineno}", text


def test_advice_says_what_to_do() -> None:
    verbs = {"allow", "ask", "call", "compare", "delete", "do", "end", "give", "install", "keep", "load", "look", "make",
             "raise", "run", "set", "sort", "take", "use"}  # fmt: skip
    several = list(_hints())
    assert len(several) > 20
    assert not [one for one in several if one[1].split()[0] not in verbs]


def test_opencv_with_many_threads_in_each_worker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class OpenCV:
        @staticmethod
        def getNumThreads() -> int:
            return 64

    monkeypatch.setitem(sys.modules, "cv2", OpenCV)  # type: ignore[arg-type]
    assert software.threads_of_libraries(4).verdict == "warn"
    assert "cv2.setNumThreads(0)" in software.threads_of_libraries(4).hint


# ---------------------------------------------------------------- a loader


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The doctor silences the log of the program that it is; here that is the tests'."""
    import logging

    level = logging.getLogger("safeloader").level
    yield
    logging.getLogger("safeloader").setLevel(level)


@pytest.mark.usefixtures("mute")
def test_a_good_loader_is_measured_and_a_number_of_workers_recommended(
    command: Callable[..., Any], programs: Path
) -> None:
    said = command("doctor", f"{programs}/loaders.py:good", "--seconds", 1, "--workers", 1, "--json")
    told = parsed(said)
    assert told["timing"]["samples"] == 8
    assert told["timing"]["nbytes"] == 8 * 16 * 4
    assert 0 < told["serialised_bytes"] < 10_000
    assert [rate["workers"] for rate in told["rates"]] == [1]
    assert told["rates"][0]["rate"] > 0
    assert told["recommendation"]["num_workers"] == 0, "the samples are numbers that are there already"
    assert sum(told["stages"].values()) == pytest.approx(1, abs=0.01)
    assert "the loader asks for 2" in told["recommendation"]["reason"]


@pytest.mark.usefixtures("mute")
def test_a_loader_that_cannot_be_sent_is_bad_and_the_part_is_named(command: Callable[..., Any], programs: Path) -> None:
    said = command("doctor", f"{programs}/loaders.py:holds_what_cannot_be_sent", "--seconds", 1)
    assert said.exit_code == 1
    assert "dataset.held" in said.stdout


def test_a_sample_that_never_comes_is_named_with_its_place(programs: Path) -> None:
    found, timing = subject.timed(find_loader(f"{programs}/loaders.py:stuck"), 0.5)
    assert (found.verdict, timing) == ("bad", None)
    assert "sample 5 has not finished within 0.5 s, and stands at loaders.py:" in found.text


def test_a_sample_that_raises_is_named_with_and_without_workers(programs: Path) -> None:
    loader = find_loader(f"{programs}/loaders.py:broken")
    assert subject.timed(loader, 5.0)[0].text == "sample 5 raised ValueError: row 5 is broken"
    assert measure(loader, 1, 0.1) == Rate(1, None, None, "ValueError: row 5 is broken")


def test_a_loader_that_asks_for_fork_is_bad(programs: Path) -> None:
    assert subject.asks_for_fork(find_loader(f"{programs}/loaders.py:forking")).verdict == "bad"
    assert subject.asks_for_fork(find_loader(f"{programs}/loaders.py:good")).verdict == "ok"


def test_room_in_shm_is_compared_with_what_torch_would_prefetch(programs: Path) -> None:
    loader = find_loader(f"{programs}/loaders.py:good")
    assert subject.shm_needed(loader, TIMING, 4 * 4096 - 1).verdict == "warn"
    assert subject.shm_needed(loader, TIMING, 4 * 4096).verdict == "ok"


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (["nowhere.py:loader"], 2, "there is no file nowhere.py"),
        (["{}/loaders.py:raising"], 1, "raising() failed: RuntimeError: no data here"),
        (["{}/loaders.py:number"], 2, "is of type int"),
        (["{}/loaders.py:good", "--workers", "none"], 2, "--workers takes numbers"),
    ],
)
def test_wrong_use_is_said_in_a_line(
    command: Callable[..., Any], programs: Path, line: list[str], status: int, words: str
) -> None:
    said = command("doctor", *(word.format(programs) for word in line))
    assert (said.exit_code, words in said.output, "Traceback" in said.output) == (status, True, False), said.output


# ---------------------------------------------------------------- the recommendation


def test_the_smallest_number_of_workers_that_gives_almost_the_best_is_recommended() -> None:
    rates = [Rate(1, 50.0, 1.0), Rate(2, 96.0, 1.0), Rate(4, 100.0, 1.0)]
    found = recommend(rates, 8, 4.0, TIMING, None)
    assert found.num_workers == 2
    assert found.reason.startswith("2 workers give 96 batches a second; 4 give 100, hardly more")
    assert recommend([Rate(2, None, None, "no")], 2, 2.0, None, None).num_workers is None


def test_with_the_time_of_a_training_step_what_keeps_up_is_recommended() -> None:
    rates = [Rate(1, 50.0, 1.0), Rate(2, 96.0, 1.0), Rate(4, 100.0, 1.0)]
    assert recommend(rates, 2, 4.0, TIMING, 0.025).num_workers == 1
    assert recommend(rates, 2, 4.0, TIMING, 0.012).num_workers == 2
    slow = recommend(rates, 2, 4.0, TIMING, 0.001)
    assert (slow.num_workers, "will wait for data" in slow.reason) == (4, True)
    assert recommend(rates, 2, 4.0, TIMING, 10.0).num_workers == 0


def test_few_numbers_are_tried_and_the_loaders_own_among_them() -> None:
    assert counts(2.0, 0) == [1, 2]
    assert counts(6.0, 3) == [1, 2, 3, 4, 6]
    assert counts(64.0, 64) == [1, 2, 4, 8, 16]
    assert counts(0.5, 0) == [1]
    assert os.cpu_count()


def test_the_hash_seed_of_processes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from safeloader.runtime.start import hashing

    monkeypatch.setattr(hashing, "_at_start", None)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    found = software.hash_seed()
    assert found.text == "random in the trainer, 1 in worker processes"
    assert "PYTHONHASHSEED=0" in found.hint
    monkeypatch.setattr(hashing, "_at_start", "7")
    assert software.hash_seed().text == "7, in the trainer and in worker processes"
