"""Datasets that see, and functions that change, what surrounds a worker."""

from __future__ import annotations

import contextlib
import decimal
import faulthandler
import locale
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, IterableDataset


def _warned() -> str:
    try:
        warnings.warn("look", UserWarning, stacklevel=1)
    except UserWarning:
        return "raised"
    return "shown"


def surroundings() -> dict[str, str]:
    """What a sample can see of its process, in words."""
    matrix = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    weight = torch.nn.Parameter(torch.ones(8, 8))
    seen: dict[str, Any] = {
        "made": (torch.zeros(2).dtype, str(torch.zeros(2).device), torch.tensor(0.1).dtype),
        "empty": torch.empty(2).tolist() if torch.are_deterministic_algorithms_enabled() else None,
        "product": (matrix @ matrix).dtype,
        "on": torch.nn.functional.linear(matrix, weight).dtype,
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "gradients": (weight * matrix).requires_grad,
        "inference": (torch.is_inference_mode_enabled(), torch.zeros(1).is_inference()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),  # type: ignore[attr-defined]
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "mkldnn": torch.backends.mkldnn.enabled,  # type: ignore[attr-defined, unused-ignore]
        "threads": torch.get_num_threads(),
        "anomaly": torch.is_anomaly_enabled(),
        "shown": repr(torch.tensor([1 / 3])),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "denormal": float(np.float32(1e-40) * np.float32(1)),
        "numpy": (np.geterr(), repr(np.array([1 / 3]))),
        "decimal": str(decimal.Decimal(1) / 3),
        "locale": locale.localeconv()["decimal_point"],
        "warning": _warned(),
        "socket": socket.getdefaulttimeout(),
        "attention": torch.backends.cuda.math_sdp_enabled(),
    }
    return {name: str(value) for name, value in seen.items()}


class Surroundings(Dataset[Any]):
    """Each sample is what it sees."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, str]:
        return surroundings()


class _Function(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _setting(get: Any, put: Any, value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


@contextlib.contextmanager
def _device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


AMBIENT: dict[str, Any] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to half": lambda: torch.autocast("cpu", dtype=torch.float16),
    "autocast without cache": lambda: torch.autocast("cpu", cache_enabled=False),
    "default dtype": lambda: _setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "with device": lambda: torch.device("meta"),
    "default device": lambda: _device("meta"),
    "function mode": _Function,
    "dispatch mode": _Dispatch,
    "deterministic": lambda: _setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "precision": lambda: _setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "cudnn": lambda: torch.backends.cudnn.flags(benchmark=True, deterministic=True),
    "threads": lambda: _setting(torch.get_num_threads, torch.set_num_threads, 3),
    "anomaly": torch.autograd.detect_anomaly,
    "denormals": lambda: _setting(lambda: False, torch.set_flush_denormal, True),
    "numpy errors": lambda: np.errstate(all="raise"),
    "numpy printing": lambda: np.printoptions(precision=2),
    "torch printing": lambda: _setting(lambda: 4, lambda digits: torch.set_printoptions(precision=digits), 1),
    "decimal": lambda: decimal.localcontext(decimal.Context(prec=3)),
    "warnings": _warnings_are_errors,
    "sockets": lambda: _setting(socket.getdefaulttimeout, socket.setdefaulttimeout, 3.0),
    "attention": lambda: _setting(lambda: True, torch.backends.cuda.enable_math_sdp, False),
}
"""What a trainer may have around its loop."""


def rude(worker: int) -> None:
    """A ``worker_init_fn`` that changes whatever can be changed and undone."""
    import logging
    import multiprocessing
    import resource

    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    os.umask(0o027)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    os.environ["SAFELOADER_TEST_RUDE"] = str(worker)
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.setitimer(signal.ITIMER_REAL, 1000.0)
    sys.path.insert(0, "/rude")
    sys.argv.append("rude")
    sys.setrecursionlimit(sys.getrecursionlimit() + 1)
    sys.stdout = sys.__stderr__  # type: ignore[assignment]
    socket.setdefaulttimeout(7.0)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    multiprocessing.set_start_method("spawn", force=True)
    np.seterr(all="ignore")
    np.set_printoptions(precision=1)
    decimal.getcontext().prec = 5
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.set_printoptions(precision=2)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def program_state() -> dict[str, Any]:
    """What ``rude`` changes, as the program sees it."""
    import logging
    import multiprocessing
    import resource

    mask = os.umask(0o022)
    os.umask(mask)
    return {
        "cores": os.sched_getaffinity(0),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "umask": mask,
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "environment": dict(os.environ),
        "zone": time.tzname,
        "folder": os.getcwd(),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR2)],
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] < 500,
        "path": list(sys.path),
        "argv": list(sys.argv),
        "recursion": sys.getrecursionlimit(),
        "stdout": sys.stdout,
        "socket": socket.getdefaulttimeout(),
        "filters": list(warnings.filters),
        "logging": logging.root.manager.disable,
        "method": multiprocessing.get_start_method(allow_none=True),
        "numpy": (np.geterr(), np.get_printoptions()),
        "decimal": decimal.getcontext().prec,
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "shown": repr(torch.tensor([1 / 3])),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": torch.backends.cudnn.benchmark,
        "session": (os.getsid(0), os.getpgrp()),
    }


class Rude(Dataset[Any]):
    """Each sample tells what ``rude`` left in its worker, and counts up in the environment. It may end badly."""

    def __init__(self, raises: int | None = None) -> None:
        self.raises = raises

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, str]:
        os.environ["SAFELOADER_TEST_COUNT"] = str(int(os.environ.get("SAFELOADER_TEST_COUNT", "0")) + 1)
        torch.set_grad_enabled(True)
        seen = {
            "worker": os.environ["SAFELOADER_TEST_RUDE"],
            "count": os.environ["SAFELOADER_TEST_COUNT"],
            "folder": os.getcwd(),
            "cores": str(len(os.sched_getaffinity(0))),
            "zone": time.tzname[0],
            "dtype": str(torch.zeros(1).dtype),
            "decimal": str(decimal.Decimal(1) / 3),
            "numpy": repr(np.array([1 / 3])),
            "argv": sys.argv[-1],
            "deterministic": str(torch.are_deterministic_algorithms_enabled()),
            "threads": str(torch.get_num_threads()),
        }
        if index == self.raises:
            raise ValueError("as asked")
        return seen


class RudeStream(IterableDataset[Any]):
    """A generator that changes its surroundings between two samples, and goes on in them."""

    def __iter__(self) -> Iterator[dict[str, str]]:
        decimal.getcontext().prec = 6
        with torch.autocast("cpu"), np.errstate(all="ignore"):
            for number in range(6):
                torch.set_default_dtype((torch.float32, torch.float64)[number % 2])
                yield {
                    "decimal": str(decimal.Decimal(1) / 3),
                    "autocast": str(torch.is_autocast_enabled("cpu")),
                    "numpy": str(np.geterr()),
                    "dtype": str(torch.zeros(1).dtype),
                    "gradients": str(torch.is_grad_enabled()),
                }
                decimal.getcontext().prec += 1


class Lasting(Dataset[Any]):
    """One sample does what cannot be undone."""

    def __init__(self, deed: str, at: int = 3) -> None:
        self.deed, self.at = deed, at

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.at and self.deed != "swallowed":
            DEEDS[self.deed]()
        elif index == self.at:
            with contextlib.suppress(BaseException):
                faulthandler.enable()
        return torch.rand(2) + index


def _exit() -> None:
    sys.exit(3)


DEEDS: dict[str, Any] = {
    "session": lambda: os.getpgrp() == os.getpid() or os.setsid(),
    "faulthandler": lambda: faulthandler.enable(),
    "exit": _exit,
    "_exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": lambda: os.abort(),  # looked up when it is called, as guards need it
    "execv": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
}


def leaves(worker: int) -> None:
    """A ``worker_init_fn`` that does what cannot be undone."""
    faulthandler.enable()
