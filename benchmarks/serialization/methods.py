"""The ways to serialise that are compared; each writes bytes that `load` reads in another interpreter."""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("cloudpickle", "dill recurse", "multiprocess", "safeloader")


def _cloudpickle() -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    import cloudpickle

    return cloudpickle.dumps, cloudpickle.loads


def _dill() -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    import dill

    return (lambda obj: bytes(dill.dumps(obj, recurse=True))), dill.loads


def _multiprocess() -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    reduction: Any = importlib.import_module("multiprocess.reduction")
    return (lambda obj: bytes(reduction.ForkingPickler.dumps(obj))), reduction.ForkingPickler.loads


def _safeloader() -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    from safeloader.runtime import carry

    def dump(obj: Any) -> bytes:
        packed = carry.pack(obj)
        return b"".join(packed._pieces())

    return dump, lambda data: carry.read(bytearray(data))[0]


METHODS = dict(zip(NAMES, (_cloudpickle, _dill, _multiprocess, _safeloader), strict=True))


def dump_all(obj: Any, use: str, folder: str) -> None:
    """In the script: write the object by each method, and what the expression gives here."""
    facts: dict[str, Any] = {}
    for name, make in METHODS.items():
        dump, _ = make()
        try:
            data = dump(obj)
            facts[name] = {"bytes": len(data), "us": _best_microseconds(functools.partial(dump, obj))}
            Path(folder, name).write_bytes(data)
        except Exception as error:
            facts[name] = {"error": f"at dump, {_short(error)}"}
    # Last, as using the object may change it.
    facts["expected"] = repr(eval(use, {"obj": obj}))
    Path(folder, "facts.json").write_text(json.dumps(facts))


def load_and_use(name: str, file: str, use: str) -> None:
    """In a fresh interpreter: read the object, and print what the expression gives here."""
    try:
        _, load = METHODS[name]()
        obj = load(Path(file).read_bytes())
    except Exception as error:
        print("error at load,", _short(error))
        return
    try:
        print("value", repr(eval(use, {"obj": obj})))
    except Exception as error:
        print("error at use,", _short(error))


def _best_microseconds(run: Callable[[], object]) -> float:
    """Return the shortest of up to 20 runs, or of those that fit into half a second."""
    best, begin = float("inf"), time.process_time()
    for _ in range(20):
        start = time.process_time()
        run()
        end = time.process_time()
        best = min(best, end - start)
        if end - begin > 0.5:
            break
    return round(best * 1e6, 1)


def _short(error: BaseException) -> str:
    text = traceback.format_exception_only(type(error), error)[-1].strip().splitlines()[0]
    return text if len(text) <= 110 else text[:107] + "..."


if __name__ == "__main__":
    load_and_use(*sys.argv[1:])
