"""The bootstrap in the script's own process: changes its loaders, counts their batches, tells where it stands."""

from __future__ import annotations

import faulthandler
import functools
import inspect
import json
import os
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.bisecting.budget import note_timeouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["VARIABLE", "Beat", "main", "read_beat"]

VARIABLE = "_SAFELOADER_BISECT"
"""Environment variable with the orders: ``{"folder": ..., "setting": {...}, "as_module": false}``."""

_BEAT = struct.Struct("<qq")


class Beat(NamedTuple):
    """How far the script is: batches that its loaders gave, and passes over them that were begun."""

    batches: int = 0
    passes: int = 0


def read_beat(folder: Path) -> Beat:
    """The script's last word."""
    try:
        return Beat(*_BEAT.unpack((folder / "beat").read_bytes()))
    except (OSError, struct.error):
        return Beat()


def main() -> None:
    """Run the script that the arguments name, with the orders of the environment."""
    orders = json.loads(os.environ[VARIABLE])
    from safeloader.runtime.system import STACK_SIGNAL

    stacks = open(os.path.join(orders["folder"], "stacks"), "ab", buffering=0)  # noqa: SIM115 - until the end
    faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=True)
    _prepare(orders)
    from safeloader.main_module import open_program

    program, *arguments = sys.argv[1:]
    main_module, code = open_program(program, orders["as_module"])
    sys.argv = [main_module.__dict__["__file__"] or program, *arguments]
    sys.modules["__main__"] = main_module
    exec(code, main_module.__dict__)


def _prepare(orders: dict[str, Any]) -> None:
    import torch.utils.data

    from safeloader import iterators, loader, patching, single_process, torch_private

    setting = orders["setting"]
    torchs = torch.utils.data.DataLoader
    if setting["loader"] == "safeloader":
        patching.patch()
    folder = orders["folder"]
    note = functools.partial(_note, os.path.join(folder, "loaders"))
    _change(torchs, setting, note)
    _change(loader.DataLoader, setting, functools.partial(note_timeouts, os.path.join(folder, "timeouts")))
    beat = os.open(os.path.join(folder, "beat"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    heart = _Heart(beat)
    heart.count_passes(torchs)
    own = (iterators.ProcessIterator, single_process.SingleProcessIterator)
    heart.count_batches(torch_private.BaseIterator, besides=own)
    for kind in own:
        heart.count_batches(kind)


def _change(cls: type, setting: dict[str, Any], note: Callable[[dict[str, Any]], None]) -> None:
    """Let loaders of this class be made with other arguments; what is asked for is noted first."""
    original: Any = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        note(bound.arguments)
        _override(bound.arguments, setting)
        original(*bound.args, **bound.kwargs)

    cls.__init__ = init  # type: ignore[misc]


def _override(arguments: dict[str, Any], setting: dict[str, Any]) -> None:
    workers = arguments.get("num_workers", 0)
    if not workers:
        return
    if setting["workers"] is not None:
        workers = arguments["num_workers"] = min(workers, setting["workers"])
    if workers == 0:  # torch refuses what only workers can do
        for name in ("persistent_workers", "prefetch_factor", "multiprocessing_context", "timeout"):
            arguments.pop(name, None)
        return
    if setting["persistent"] is not None:
        arguments["persistent_workers"] = setting["persistent"]
    if setting["start"] is not None:
        arguments["multiprocessing_context"] = setting["start"]


def _note(path: str, arguments: dict[str, Any]) -> None:
    """Write down what the script itself asks for."""
    import multiprocessing

    context = arguments.get("multiprocessing_context")
    method = context if isinstance(context, str) else getattr(context, "get_start_method", lambda: None)()
    set_by_program = multiprocessing.get_start_method(allow_none=True)
    asked = {
        "workers": int(arguments.get("num_workers", 0)),
        "persistent": bool(arguments.get("persistent_workers", False)),
        "start": method or set_by_program or multiprocessing.get_all_start_methods()[0],  # the default is the first
    }
    with open(path, "a") as file:
        file.write(json.dumps(asked) + "\n")


class _Heart:
    """Counts batches and passes, and writes them down: one write a batch."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._batches = self._passes = 0
        self._write()

    def _write(self) -> None:
        os.pwrite(self._descriptor, _BEAT.pack(self._batches, self._passes), 0)

    def count_batches(self, cls: Any, besides: tuple[type, ...] = ()) -> None:
        """Count what iterators of a class give; not those of ``besides``, which have their own way."""
        following = cls.__next__

        @functools.wraps(following)
        def give(iterator: Any) -> Any:
            batch = following(iterator)
            if not isinstance(iterator, besides):
                self._batches += 1
                self._write()
            return batch

        cls.__next__ = give

    def count_passes(self, cls: Any) -> None:
        """Count how often loaders of a class are iterated over."""
        beginning = cls.__iter__

        @functools.wraps(beginning)
        def begin(loader: Any) -> Any:
            self._passes += 1
            self._write()
            return beginning(loader)

        cls.__iter__ = begin
