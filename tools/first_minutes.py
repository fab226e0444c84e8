"""What a newcomer does, from the README alone, and how long it takes: ``python -m tools.first_minutes``.

A wheel is installed where torch is and nothing else; then the demonstration, a first loader, a first fault, `top`,
`trace`, `doctor` and `bisect`, each as one types it, outside of the checkout. What was seen is checked, and told with
its time. ``--short`` leaves out the demonstration and what measures; a test runs that. ``--screens docs/screens``
takes the pictures of the documentation on the way, in headless Chromium.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from tools import bare, dist, screens

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Failed", "Newcomer", "Step", "main", "table"]

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 300.0
REQUIRED = ["torch", "numpy", "cloudpickle", "click", "tqdm"]
FOR_THE_COMMANDS = ["psutil", "rich"]

TRAIN = """\
import hashlib, os, sys, time
import torch
from torch.utils.data import Dataset
from safeloader import DataLoader

class Numbers(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        while index == 40 and os.path.exists("hold"):  # a sample that does not come
            time.sleep(0.05)
        return torch.full((1000,), float(index)) + torch.rand(1000)

def make_loader():
    return DataLoader(Numbers(), batch_size=4, num_workers=2, shuffle=True, name="train")

if __name__ == "__main__":
    torch.manual_seed(7)
    loader, seen = make_loader(), hashlib.sha256()
    for number, batch in enumerate(loader):
        seen.update(batch.numpy().tobytes())
        time.sleep(0.02)
        print("batch", number, flush=True)
    print("digest", seen.hexdigest())
    print(loader.report(), file=sys.stderr)
"""
HANGS = TRAIN.replace(' and os.path.exists("hold")', "").replace("safeloader", "torch.utils.data")
HANGS = HANGS.replace(', name="train"', "").replace("print(loader.report(), file=sys.stderr)", "pass")


class Step(NamedTuple):
    """One thing that a newcomer does."""

    name: str
    seconds: float
    seen: str


class Failed(Exception):
    """Something was not as it is promised; the message says what, and what was written."""


class Newcomer:
    """Somebody with a wheel, in a folder of theirs.

    Args:
        folder: an empty one.
        short: leave out what takes long.
        screens: where pictures go; None: nowhere.
    """

    def __init__(self, folder: Path, short: bool, screens: Path | None = None) -> None:
        self.folder, self.short, self.screens = folder, short, screens
        self.steps: list[Step] = []
        self._python = folder / "env" / "bin" / "python"
        self._digest = ""

    # ------------------------------------------------------------ doing

    def take(self, name: str, step: Callable[[], str]) -> None:
        """Do one thing, and note how long it took."""
        begun = monotonic()
        seen = step()
        self.steps.append(Step(name, monotonic() - begun, seen))
        dist.say(f"{self.steps[-1].seconds:6.1f} s  {name}: {seen}")

    def type(self, *words: str, status: int = 0, **more: str) -> str:
        """Type a command; returns what it wrote.

        Raises:
            Failed: its exit status is another one.
        """
        done = subprocess.run(
            [str(self._python), *words], cwd=self.folder, env=self._environment(**more), text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_PATIENCE, encoding="utf-8",
        )  # fmt: skip
        if done.returncode != status:
            raise Failed(f"`{' '.join(words)}` ended with {done.returncode}, not {status}:\n{done.stdout}")
        return done.stdout

    def command(self, *words: str, status: int = 0, **more: str) -> str:
        """Type ``safeloader`` and words."""
        return self.type("-m", "safeloader", *words, status=status, **more)

    def _environment(self, **more: str) -> dict[str, str]:
        left_out = ("PYTHONPATH", "PYTHONHOME", "CI")
        own = {n: v for n, v in os.environ.items() if n not in left_out and not n.startswith("SAFELOADER_")}
        return own | {"PYTHONUTF8": "1"} | more

    def picture(self, name: str, text: str) -> None:
        """Keep what a terminal showed as a picture, where pictures are wanted."""
        if self.screens is not None:
            screens.terminal(text, self.screens / name)

    # ------------------------------------------------------------ the steps

    def install(self, wheel: Path) -> str:
        """Where torch is, and what pip would bring."""
        bare.make(self.folder / "env", REQUIRED)
        site = next(self.folder.glob("env/lib/python*/site-packages"))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
        subprocess.run([*pip, str(wheel)], check=True, timeout=_PATIENCE, capture_output=True)
        return self.command("--version").strip()

    def demonstrate(self) -> str:
        """Half a minute of faults."""
        said = self.command("demo", "--html", "demo.html")
        expect("EQUAL those of the undisturbed run", said.replace("\n", " "))
        return "batches, weights and generators equal, through a kill, a hang and a stop"

    def first_loader(self) -> str:
        """One import replaced; the same bytes as torch's."""
        (self.folder / "train.py").write_text(TRAIN, encoding="utf-8")
        self._digest = digest(self.type("train.py"))
        torch = self.type("train.py", SAFELOADER_DISABLE="1")
        if digest(torch) != self._digest:
            raise Failed(f"the batches are not torch's: {self._digest}, {torch}")
        return "16 batches, equal torch's"

    def first_fault(self) -> str:
        """A worker is killed, and another sample hangs once; events and batches are written down."""
        said = self.type(
            "train.py", SAFELOADER_CHAOS="kill:worker=0,batch=4; hang:worker=1,batch=9", SAFELOADER_BATCH_TIMEOUT="3",
            SAFELOADER_EVENTS="events.jsonl", SAFELOADER_TRACE="1",
        )  # fmt: skip
        expect("2 faults (1 died, 1 hung)", said)
        if digest(said) != self._digest:
            raise Failed(f"the batches differ after the faults:\n{said}")
        return "a kill and a hang survived, the same bytes"

    def needs(self) -> str:
        """A command whose packages are not there says which, and how to get them."""
        said = self.command("top", "--once", status=1)
        expect("pip install psutil rich", said)
        bare.link(self.folder / "env", FOR_THE_COMMANDS)
        return "`top` says what it needs: pip install psutil rich"

    def top(self) -> str:
        """A run that stands still, looked at from outside."""
        (self.folder / "hold").touch()
        running = subprocess.Popen(
            [str(self._python), "train.py"], cwd=self.folder, env=self._environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert running.stdout is not None
            expect("batch 0", running.stdout.readline())
            said, end = "", monotonic() + _PATIENCE
            while "1 of 1 program waits for data" not in said:
                if monotonic() > end:
                    raise Failed(f"`top` never said that the run waits:\n{said}")
                said = self.command("top", "--once", "--pid", str(running.pid), COLUMNS="110")
            self.picture(
                "top.png", "$ safeloader top --once\n" + self._coloured("top", "--once", "--pid", str(running.pid))
            )
            expect(" 40 ", said)
        finally:
            (self.folder / "hold").unlink()
            running.communicate(timeout=_PATIENCE)
        return "it names the worker and the sample that the run waits for"

    def trace(self) -> str:
        """The picture of the run with the faults."""
        said = self.command("trace", "events.jsonl", "-o", "trace.json", "--html", "report.html")
        expect("of the time the trainer waited for data", said)
        expect("1 loader, 16 batches, 2 faults", said)
        if self.screens is not None:
            screens.page(self.folder / "report.html", self.screens / "trace.png")
        return next(line for line in said.splitlines() if line.startswith("train: ")).partition(";")[0]

    def doctor(self) -> str:
        """What on this machine, and about the loader, will hurt."""
        words = ["doctor"] if self.short else ["doctor", "train.py:make_loader", "--seconds", "5"]
        done = subprocess.run(
            [str(self._python), "-m", "safeloader", *words], cwd=self.folder, env=self._environment(), text=True,
            capture_output=True, timeout=_PATIENCE, check=False,
        )  # fmt: skip
        if done.returncode not in (0, 1):  # 1: something on this machine is bad
            raise Failed(done.stdout + done.stderr)
        return done.stdout.strip().splitlines()[-1]

    def bisect(self) -> str:
        """A script of torch's that hangs: which setting, and which sample."""
        (self.folder / "hangs.py").write_text(HANGS, encoding="utf-8")
        said = self.command("bisect", "--cap", "10", "hangs.py", status=1, COLUMNS="110")
        expect("safeloader names the sample: sample 40", said)
        self.picture("bisect.png", "$ safeloader bisect --cap 10 hangs.py\n" + said)
        return "it names the sample that always hangs"

    def _coloured(self, *words: str) -> str:
        """As in a terminal."""
        return self.command(*words, COLUMNS="110", FORCE_COLOR="1", TERM="xterm-256color")


def expect(words: str, said: str) -> None:
    """What is promised must be said.

    Raises:
        Failed: it is not.
    """
    if words not in said:
        raise Failed(f"{words!r} is not in:\n{said}")


def digest(said: str) -> str:
    """The digest of all batches that a run of the first program prints."""
    return next(line for line in said.splitlines() if line.startswith("digest "))


def table(steps: list[Step]) -> str:
    """What took how long."""
    rows = [f"{step.seconds:6.1f} s  {step.name}" for step in steps]
    return "\n".join([*rows, f"{sum(step.seconds for step in steps):6.1f} s  in all"])


def _build(folder: Path, wheel: list[Path]) -> str:
    wheel.append(dist.quick_wheel(folder))
    return wheel[0].name


def main(words: list[str] | None = None) -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(prog="python -m tools.first_minutes", description=__doc__)
    parser.add_argument("--short", action="store_true", help="without the demonstration and what measures")
    parser.add_argument("--wheel", type=Path, help="a wheel that there is; one is built otherwise")
    parser.add_argument("--screens", type=Path, help="take the pictures of the documentation, into this folder")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="safeloader-first-") as name:
        new = Newcomer(Path(name), asked.short, asked.screens)
        wheel: list[Path] = [asked.wheel] if asked.wheel else []
        try:
            if not wheel:
                new.take("build the wheel", lambda: _build(Path(name) / "dist", wheel))
            new.take("pip install", lambda: new.install(wheel[0]))
            if not asked.short:
                new.take("safeloader demo", new.demonstrate)
            new.take("a first loader", new.first_loader)
            new.take("a first fault", new.first_fault)
            new.take("a command that needs more", new.needs)
            new.take("safeloader top", new.top)
            new.take("safeloader trace", new.trace)
            new.take("safeloader doctor", new.doctor)
            if not asked.short:
                new.take("safeloader bisect", new.bisect)
        except (Failed, subprocess.SubprocessError) as error:
            sys.exit(f"after {len(new.steps)} steps: {error}")
    dist.say(f"\n{table(new.steps)}")


if __name__ == "__main__":
    main()
