"""Python's ambient states, and those of modules that datasets use. What lives in context variables (decimal's context,
numpy's error state since numpy 2) is kept by a context of each worker: see ``ambient``."""

from __future__ import annotations

import gc
import locale
import logging
import multiprocessing
import socket
import sys
import warnings
from typing import TYPE_CHECKING, Any

from safeloader.runtime.isolation.state import Surrounding

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["python_states"]

_NUMPY_ERRORS = (("divide", "warn"), ("invalid", "warn"), ("over", "warn"), ("under", "ignore"))


def python_states() -> list[Surrounding]:
    """All that this Python has."""
    return [
        Surrounding("filters of warnings", lambda: tuple(warnings.filters), _put_filters, "derived", _without_errors),
        Surrounding("locale", _locale, lambda to: locale.setlocale(locale.LC_ALL, to), "clean", _clean_locale()),
        Surrounding("default timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout, "clean", None),
        Surrounding("sys.path", lambda: (*_itself(sys.path), tuple(sys.path)), _put_path, "born"),
        Surrounding("sys.argv", lambda: (*_itself(sys.argv), tuple(sys.argv)), _put_argv, "born"),
        Surrounding("logging", _logging, _put_logging),
        Surrounding("start method", _start_method, _put_start_method),
        Surrounding("collection of garbage", lambda: (gc.isenabled(), gc.get_threshold()), _put_collection),
        Surrounding("limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
        Surrounding("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        *_attributes(sys, "stdin", "stdout", "stderr", "excepthook", "unraisablehook", "dont_write_bytecode"),
        Surrounding("folder of temporary files", _temporary, _put_temporary, "clean", None),
        *_attributes(warnings, "showwarning", "_showwarnmsg_impl", "defaultaction"),
        *_integers(),
        *_numpy(),
        Surrounding("OpenCV", _opencv, _put_opencv),
    ]


def _attributes(module: Any, *names: str) -> list[Surrounding]:
    def state(name: str) -> Surrounding:
        return Surrounding(
            f"{module.__name__}.{name}", lambda: _itself(getattr(module, name)),
            lambda to: setattr(module, name, to[1]),
        )  # fmt: skip

    return [state(name) for name in names if hasattr(module, name)]


def _itself(value: Any) -> tuple[int, Any]:
    """A pair that equals only one with the same object."""
    return id(value), value


def _put_path(to: tuple[Any, ...]) -> None:
    sys.path = to[1]
    sys.path[:] = to[2]


def _put_argv(to: tuple[Any, ...]) -> None:
    sys.argv = to[1]
    sys.argv[:] = to[2]


def _temporary() -> Any:
    return getattr(sys.modules.get("tempfile"), "tempdir", None)


def _put_temporary(to: Any) -> None:
    module: Any = sys.modules.get("tempfile")
    if module is not None:
        module.tempdir = to


def _integers() -> list[Surrounding]:
    get: Callable[[], int] | None = getattr(sys, "get_int_max_str_digits", None)
    if get is None:
        return []
    return [Surrounding("digits of integers", get, sys.set_int_max_str_digits)]


# ---------------------------------------------------------------- warnings and locale


def _put_filters(to: tuple[Any, ...]) -> None:
    warnings.resetwarnings()  # tells the registries of all modules that something changed
    warnings.filters.extend(to)  # type: ignore[attr-defined]


def _without_errors(filters: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without those that make errors of warnings, unless the interpreter was started so, as processes then are. The
    others decide what is shown: they stay, since each change makes Python show again what it has shown."""
    if not any(one[0] == "error" for one in filters) or any("error" in option for option in sys.warnoptions):
        return filters
    return tuple(one for one in filters if one[0] != "error")


def _locale() -> str:
    return locale.setlocale(locale.LC_ALL)


def _clean_locale() -> str:
    """Python sets what belongs to characters when it starts, and leaves the rest as in C."""
    before = _locale()
    try:
        for name in ("NUMERIC", "TIME", "COLLATE", "MONETARY", "MESSAGES"):
            locale.setlocale(getattr(locale, f"LC_{name}", locale.LC_NUMERIC), "C")
        return _locale()
    finally:
        if _locale() != before:
            locale.setlocale(locale.LC_ALL, before)


# ---------------------------------------------------------------- the rest


def _logging() -> tuple[Any, ...]:
    root = logging.root
    return root.level, root.disabled, root.manager.disable, tuple(root.handlers), tuple(root.filters)


def _put_logging(to: tuple[Any, ...]) -> None:
    root = logging.root
    root.setLevel(to[0])
    root.disabled = to[1]
    logging.disable(to[2])
    root.handlers[:] = to[3]
    root.filters[:] = to[4]


def _start_method() -> tuple[int, Any]:
    default: Any = multiprocessing.context._default_context
    return _itself(default._actual_context)


def _put_start_method(to: tuple[int, Any]) -> None:
    default: Any = multiprocessing.context._default_context
    default._actual_context = to[1]


def _put_collection(to: tuple[bool, tuple[int, int, int]]) -> None:
    gc.set_threshold(*to[1])
    (gc.enable if to[0] else gc.disable)()


def _numpy() -> list[Surrounding]:
    """torch imports numpy where there is one."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return []
    return [
        Surrounding(
            "error state of numpy", lambda: tuple(numpy.geterr().items()), lambda to: numpy.seterr(**dict(to)),
            "clean", _NUMPY_ERRORS,
        ),
        Surrounding("error call of numpy", numpy.geterrcall, numpy.seterrcall, "clean", None),
        Surrounding(
            "print options of numpy", lambda: tuple(numpy.get_printoptions().items()), _put_numpy_printing,
            "clean", _clean_numpy_printing(numpy),
        ),
    ]  # fmt: skip


def _put_numpy_printing(to: tuple[Any, ...]) -> None:
    import numpy

    numpy.set_printoptions(**dict(to))  # type: ignore[arg-type, unused-ignore]


def _clean_numpy_printing(numpy: Any) -> tuple[Any, ...]:
    clean = {
        "precision": 8, "threshold": 1000, "edgeitems": 3, "linewidth": 75, "suppress": False, "nanstr": "nan",
        "infstr": "inf", "formatter": None, "sign": "-", "floatmode": "maxprec", "legacy": False,
    }  # fmt: skip
    now = numpy.get_printoptions()
    return tuple((name, clean.get(name, now[name])) for name in now)


def _opencv() -> tuple[int, bool] | None:
    """OpenCV's threads, and whether its faster code is used; None as it begins, imported or not."""
    cv2: Any = sys.modules.get("cv2")
    if not hasattr(cv2, "setUseOptimized"):  # the last that it needs: another thread may be importing it
        return None
    now = cv2.getNumThreads(), cv2.useOptimized()
    return None if now == (cv2.getNumberOfCPUs(), True) else now


def _put_opencv(to: tuple[int, bool] | None) -> None:
    cv2: Any = sys.modules["cv2"]
    threads, optimized = to or (-1, True)
    cv2.setNumThreads(threads)
    cv2.setUseOptimized(optimized)
