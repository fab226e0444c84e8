"""Follows a batch, and a SIGKILL, through the files of the package, in the trainer's main thread.

    python -m tools.walk              the number of files of a batch, of its hops from file to file, and of a SIGKILL
    python -m tools.walk --files      names them, too

The case is the same each time: of a batch, that its message was heard with one before it; of a SIGKILL, that a sample
does it to its process, and that thirty batches follow after there is another.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch.utils.data

import safeloader

if TYPE_CHECKING:
    from types import FrameType

_ROOT = Path(safeloader.__file__).parent
_DEADLY, _READY, _AFTER = 400, 8, 30


class _Data(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, folder: str) -> None:
        self.once = Path(folder, "killed")

    def __len__(self) -> int:
        return 8000

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == _DEADLY and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index)


class _Walker:
    def __init__(self, loader: safeloader.DataLoader[torch.Tensor]) -> None:
        self.loader = loader
        self.batches = iter(loader)
        self.files: list[str] = []

    def ask(self) -> list[str]:
        """Ask for a batch: the file of each function that is called."""
        before = len(self.files)
        sys.setprofile(self._note)
        try:
            next(self.batches)
        finally:
            sys.setprofile(None)
        return self.files[before:]

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(_ROOT):
            self.files.append(str(path.relative_to(_ROOT)))

    def ready(self) -> list[list[str]]:
        """Batches for which nothing had to be heard."""
        found: list[list[str]] = []
        while len(found) < _READY:
            self._rest()
            asked = self.ask()
            if not any(file.endswith("inbox.py") for file in asked):
                found.append(asked)
        return found

    def _rest(self) -> None:
        rests = 0
        while rests < 5:
            idle = all(post.state == "idle" for post in self.batches.inspect().posts)  # type: ignore[attr-defined]
            rests = rests + 1 if idle else 0
            time.sleep(0.01)

    def killed(self) -> list[str]:
        """From before the SIGKILL until all is as before."""
        self.files.clear()
        while self.loader.report().restarts == 0:
            self.ask()
        for _ in range(_AFTER):
            self.ask()
        return self.files


def main() -> None:
    """Print what is found."""
    with tempfile.TemporaryDirectory() as folder:
        loader = safeloader.DataLoader(_Data(folder), batch_size=8, num_workers=2, persistent_workers=True)
        with loader:
            walker = _Walker(loader)
            for _ in range(20):
                walker.ask()
            ready, killed = walker.ready(), walker.killed()
    batch = [file for asked in ready for file in asked]
    hops = max(sum(one != other for one, other in itertools.pairwise(asked)) for asked in ready)
    if "--files" in sys.argv:
        for walk in (batch, killed):
            print("\n".join(["", *dict.fromkeys(walk)]))
    print(len(set(batch)), hops, len(set(killed)))


if __name__ == "__main__":
    main()
