"""Running programs, looked at from outside: what is shown, and what is said where there is nothing to show."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from safeloader import DataLoader
from safeloader.cli.toplook import Looker
from safeloader.observe.status_socket import STRANGERS_A_SECOND, NoAnswerError, ask, listening, name_of
from tests.fixtures_data import Draws
from tests.programs import end, start_script
from tests.until import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets")
PROGRAM = Path(__file__).parent / "programs" / "trains.py"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A program whose worker 1 stands at sample 5."""
    go = tmp_path_factory.mktemp("top") / "go"
    child = start_script(PROGRAM, str(go))
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    yield child
    go.touch()
    ended = end(child, 60)
    assert (ended.code, ended.out) == (0, "done\n"), ended.err


def _train(told: Any) -> Any:
    return told["programs"][0]["loaders"][1]


def test_a_running_program_shows_its_loaders_and_what_each_worker_is_at(
    command: Callable[..., Any], trainer: subprocess.Popen[str]
) -> None:
    def seen() -> Any:
        told = json.loads(command("top", "--once", "--json", "--pid", trainer.pid).stdout)
        crew = _train(told)["crew"]
        return told if crew[1]["state"] == "loading" and crew[0]["state"] == "idle" else None

    told = until(seen)
    assert told["problems"] == []
    (program,) = told["programs"]
    assert (program["pid"], program["program"][0]) == (trainer.pid, str(PROGRAM))
    val, train = program["loaders"]
    assert (val["name"], val["batch"], val["length"], val["busy"], val["crew"]) == ("val", 1, 1, False, [])
    assert (train["name"], train["epoch"], train["batch"], train["length"]) == ("train", 0, 1, 4)
    assert (train["waiting"], train["workers"], train["processes"], train["faults"]) == (True, 2, 2, 0)
    assert 0 < train["wait_share"] <= 1
    assert train["rate"] > 0
    stuck = train["crew"][1]
    assert (stuck["worker"], stuck["batch"], stuck["sample"], stuck["attempts"]) == (1, 1, 5, 0)
    assert stuck["memory"] > 1 << 20
    assert stuck["process"] in [child.pid for child in psutil.Process(trainer.pid).children()]

    shown = command("top", "--once").stdout
    assert f"{trainer.pid}: {PROGRAM.name}" in shown
    assert "train: epoch 0, batch 1 of 4" in shown
    assert "waits for a batch for" in shown


def test_rates_are_those_since_the_last_look(trainer: subprocess.Popen[str]) -> None:
    looker = Looker(trainer.pid)
    looker.look()
    train = looker.look().programs[0]["loaders"][1]
    assert train["rate"] == 0
    assert train["wait_share"] > 0.5


def test_a_stopped_program_is_named(command: Callable[..., Any], trainer: subprocess.Popen[str]) -> None:
    os.kill(trainer.pid, signal.SIGSTOP)
    try:
        assert until(lambda: psutil.Process(trainer.pid).status() == psutil.STATUS_STOPPED)
        said = command("top", "--once", "--pid", trainer.pid)
    finally:
        os.kill(trainer.pid, signal.SIGCONT)
    assert said.exit_code == 1
    assert f"process {trainer.pid} does not answer" in said.stdout
    assert "(it is stopped)" in said.stdout


def test_the_live_view_shows_it_until_interrupted(trainer: subprocess.Popen[str]) -> None:
    parent, child = pty.openpty()
    line = [sys.executable, "-m", "safeloader", "top", "--interval", "0.1", "--pid", str(trainer.pid)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    shown = subprocess.Popen(line, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True)
    os.close(child)
    _seen(parent, b"train: epoch 0", 2)
    shown.send_signal(signal.SIGINT)
    until(lambda: _drained(parent) and shown.poll() is not None)
    assert shown.wait(30) == 130
    os.close(parent)


@pytest.mark.timeout(400)
def test_keys_sort_scroll_help_and_end_it_at_fifty_columns(trainer: subprocess.Popen[str]) -> None:
    parent, child = pty.openpty()
    line = [sys.executable, "-m", "safeloader", "top", "--interval", "30", "--pid", str(trainer.pid)]  # others may run
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "50", "LINES": "12"}
    shown = subprocess.Popen(line, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True)
    before = termios.tcgetattr(child)
    _seen(parent, b"s sort (waiting)")
    for key, words in (
        (b"s", b"s sort (rate)"),
        (b"?", b"a line down, up"),
        (b"\x1b[B", b"s sort (rate)"),
        (b"?", b"train: waits"),
    ):
        os.write(parent, key)
        _seen(parent, words)
    os.write(parent, b"?q")  # as fast as somebody types
    until(lambda: _drained(parent) and shown.poll() is not None)
    assert shown.returncode == 0
    assert termios.tcgetattr(child) == before, "the terminal is left as it was"
    os.close(child)
    os.close(parent)


def _seen(descriptor: int, words: bytes, times: int = 1) -> None:
    """Read a terminal until it has shown something so often."""
    text = b""
    while text.count(words) < times:
        assert select.select([descriptor], [], [], 60)[0], text
        text += os.read(descriptor, 65536)


def _drained(descriptor: int) -> bool:
    """A terminal that nobody reads holds up who writes to it."""
    while select.select([descriptor], [], [], 0)[0]:
        try:
            os.read(descriptor, 65536)
        except OSError:  # nobody writes any more
            break
    return True


def test_a_pipe_that_is_closed_ends_it_quietly(trainer: subprocess.Popen[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "safeloader", "top", "--once", "--json"]
    said = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert "Traceback" not in said.stderr
    assert said.returncode != 0


# ---------------------------------------------------------------- nothing to show


def test_no_terminal_and_wrong_use_are_said_in_a_line(command: Callable[..., Any]) -> None:
    assert (said := command("top")).exit_code == 2
    assert "use --once" in said.output
    assert "--json goes with --once" in command("top", "--json").output


def test_a_process_that_is_gone_is_named(command: Callable[..., Any]) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    said = command("top", "--once", "--pid", child.pid)
    assert said.exit_code == 1
    assert "(there is no such process)" in said.stdout


def test_programs_of_other_users_are_counted_and_not_asked(tmp_path: Path) -> None:
    table = tmp_path / "unix"
    rows = [f"@safeloader-{os.getuid()}-7", f"@safeloader-{os.getuid() + 1}-8", "@other-0-9", "@safeloader-x", "/run/x"]
    table.write_text("Num RefCount\n" + "".join(f"0000: 2 0 10000 1 1 55 {row}\n" for row in rows))
    assert listening(str(table)) == ([7], 1)


def test_names_that_nobody_can_read_are_passed_over(tmp_path: Path) -> None:
    """Any user can bind any bytes: what is no name of a program is no line of the table."""
    table, own = tmp_path / "unix", f"@safeloader-{os.getuid()}-".encode()
    odd = [b"\xff\xfe", own + b"\xff", own + b"4194305", own + b"9" * 60, own + "\u0661".encode(), own + b"0", own]
    odd += [own + b"8 ", own + b"-8", b"@x\n" + own + b"8", b"@\n\n", b"@x\n0: 2 " + own + b"8", b"\x1b[2J"]
    table.write_bytes(b"Num\n" + b"".join(b"0000: 2 0 10000 1 1 55 %b\n" % row for row in [*odd, own + b"7"]))
    assert listening(str(table)) == ([7], 0)


def test_sockets_with_odd_names_do_no_harm(command: Callable[..., Any]) -> None:
    names = [
        b"\0\xff\xfe",
        b"\0safeloader-%d-\xff" % os.getuid(),
        b"\0x\n0: 2 0 0 1 1 5 @safeloader-%d-3" % os.getuid(),
    ]
    bound = []
    try:
        for name in names:
            bound.append(socket.socket(socket.AF_UNIX))
            bound[-1].bind(name)
        said = command("top", "--once")
    finally:
        for one in bound:
            one.close()
    assert said.exit_code == 0, said.output


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"[1]", "answers something else than its status"),
        (b'{"v": 99}', "answers as another version"),
        (b'{"v": 1, "loaders": [{"name": "x"}]}', "is not whole (KeyError"),
        (b'{"v": 1', "broke off its answer"),
    ],
)
def test_an_answer_that_is_none_is_a_sentence(command: Callable[..., Any], answer: bytes, words: str) -> None:
    code = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); "
        f"s.bind('\\0safeloader-%d-%d' % (os.getuid(), os.getpid())); s.listen(); print('ready', flush=True); "
        f"c, _ = s.accept(); c.sendall({answer!r}); c.close(); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        said = command("top", "--once", "--pid", child.pid)
    finally:
        child.communicate(timeout=30)
    assert (said.exit_code, words in said.stdout, f"process {child.pid}" in said.stdout) == (1, True, True), said.output


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_who_answers_in_a_programs_name_is_not_believed() -> None:
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
        f"s.bind('\\0' + {name_of(0, 1)!r}); s.listen(); print('ready', flush=True); "
        "c, _ = s.accept(); c.sendall(b'{\"loaders\": []}'); c.close(); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        with pytest.raises(NoAnswerError, match=f"process {child.pid} of another user answers for process 1"):
            ask(1)
    finally:
        child.communicate(timeout=30)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_answered() -> None:
    from safeloader.observe import stall

    stall.start()
    code = (
        "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
        f"s.connect('\\0' + {name_of(0, os.getpid())!r}); print(len(s.recv(10)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True).stdout == b"0\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_flood_of_calls_from_another_user_is_turned_away_at_a_bounded_rate() -> None:
    """And the program's own user is answered meanwhile."""
    from safeloader.observe import stall

    stall.start()
    flood = f"""
import os, socket, threading, time
os.setuid(65534)
began, served = time.monotonic(), []
def call():
    while time.monotonic() < began + 3 or len(served) < {3 * STRANGERS_A_SECOND}:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect("\\0" + {name_of(0, os.getpid())!r})
            served.append(caller.recv(10))
threads = [threading.Thread(target=call) for _ in range(16)]
for thread in threads: thread.start()
print("ready", flush=True)
for thread in threads: thread.join()
print(len(served) / (time.monotonic() - began), *{{*served}})
"""
    child = subprocess.Popen([sys.executable, "-c", flood], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert ask(os.getpid(), 20)["pid"] == os.getpid()
    rate, answers = child.communicate(timeout=60)[0].split()
    assert answers == "b''"
    assert float(rate) < 2 * STRANGERS_A_SECOND, "unlimited, it is thousands"


def test_a_caller_that_does_not_read_holds_nothing_up() -> None:
    """And the next one is answered."""
    loader = DataLoader(Draws(4), 4, name="mine")
    list(loader)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect("\0" + name_of(os.getuid(), os.getpid()))
        told = ask(os.getpid(), 20)
    assert "mine" in [one["name"] for one in told["loaders"]]


def test_a_fork_does_not_answer_for_its_parent() -> None:
    from safeloader.observe import stall

    stall.start()
    name = "@" + name_of(os.getuid(), os.getpid())
    with open("/proc/net/unix") as file:
        (listener,) = [f"socket:[{line.split()[6]}]" for line in file if line.split()[-1] == name]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(int(listener in _held())).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 1) == b"0"
    assert listener in _held()
    os.close(reader)
    os.close(writer)


def _held() -> list[str]:
    """What this process's descriptors lead to."""
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(name) for name in names if os.path.exists(name)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
def test_a_program_of_another_user_is_named_as_such(command: Callable[..., Any]) -> None:
    foreign = subprocess.Popen(["sleep", "60"], user=65534)
    try:
        said = command("top", "--once", "--pid", foreign.pid)
    finally:
        foreign.kill()
        foreign.wait()
    assert said.exit_code == 1
    assert "another user's" in said.output
