"""What to call a thing that cannot be carried, and what to do about it."""

from __future__ import annotations

import concurrent.futures
import ctypes
import io
import mmap
import multiprocessing.process
import pickle
import socket
import subprocess
import threading
import types
import weakref
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

from safeloader.runtime.user_code import module_of, package_of

_LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
    threading.local,
)
_GENERATORS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_RUNNING = (
    threading.Thread,
    concurrent.futures.Executor,
    concurrent.futures.Future,
    multiprocessing.process.BaseProcess,
    subprocess.Popen,
)
# The common base of ctypes' data types, functions and pointers has no name.
_POINTERS = (ctypes.Structure.__base__ or ctypes.Structure, ctypes.CDLL)

_LAZILY = "leave it out in __getstate__, and {} in the first __getitem__ of each process"
_MAKE = _LAZILY.format("make it")
_LOCK = (
    "a thread lock means nothing in another process: leave it out in __getstate__ and make a new one on "
    'first use; to keep processes apart, use multiprocessing.get_context("spawn").Lock()'
)
_GLOBAL = (
    "the variable {0} of the script would go along with the function that uses it: make it inside the "
    "function, or move both into a module of their own, which every process imports for itself"
)
_CAPTURED = "the function holds {0} in its closure: make it inside the function, when it is first called"
# What pickle raises where there is no way; anything else comes from the object's own methods.
_OF_PICKLE = (TypeError, ValueError, AttributeError, RuntimeError, pickle.PicklingError)
_BY_KIND: tuple[tuple[tuple[type, ...], str], ...] = (
    (_LOCKS, _LOCK),
    ((io.IOBase,), "keep the path, " + _LAZILY.format("open the file")),
    ((mmap.mmap,), "keep the path, " + _LAZILY.format("map the file") + "; or use numpy.memmap"),
    (_GENERATORS, "keep the function and its arguments, " + _LAZILY.format("call it")),
    ((socket.socket,), "keep the address, " + _LAZILY.format("connect")),
    (_RUNNING, "start it in worker_init_fn, or " + _LAZILY.format("start it")),
    (_POINTERS, "a pointer is an address in this process: " + _LAZILY.format("load the library")),
    ((weakref.ref,), "hold the object itself, or leave the reference out in __getstate__"),
    ((types.FrameType, types.TracebackType), "keep its text (traceback.format_exception), not the object"),
)
# Libraries whose objects are connections or handles, by the first part of their module's name.
_CONNECTIONS = {
    "sqlite3", "_sqlite3", "h5py", "lmdb", "netCDF4", "zarr", "rasterio", "pyarrow", "psycopg", "psycopg2",
    "pymysql", "pymongo", "redis", "boto3", "botocore", "s3fs", "gcsfs", "grpc", "requests", "urllib3",
    "aiohttp", "av", "decord", "cv2", "zipfile", "tarfile",
}  # fmt: skip


def is_known(thing: object) -> bool:
    """Return True for things that nobody wants to see taken apart: what is inside them is not the user's."""
    return isinstance(thing, (*_LOCKS, *_RUNNING, SynchronizedBase))


def describe(thing: Any) -> str:
    """Return the kind of a thing with its article, such as ``"a _thread.lock"``."""
    if isinstance(thing, type):
        return "a class"
    if isinstance(thing, types.FunctionType):
        return "a function"
    kind = type(thing)
    hidden = ("builtins", "__main__")
    module = module_of(kind)
    name = kind.__qualname__ if not module or module in hidden else f"{module}.{kind.__qualname__}"
    return f"{'an' if name.lstrip('_')[:1] in 'aeiouAEIOU' else 'a'} {name}"


def advice_for(thing: Any, reason: Exception, path: str = "") -> str:
    """Return what to try instead of carrying the `thing` at `path`, which failed with `reason`."""
    hint = getattr(reason, "hint", "")
    if hint:
        return str(hint)
    if "inheritance" in str(reason):
        return "give it to the dataset before the loader starts: a process gets it at its start or never"
    last = path.rpartition(" → ")[2]
    if last.startswith("global variable "):
        return _GLOBAL.format(last.removeprefix("global variable "))
    if last.startswith("captured variable "):
        return _CAPTURED.format(last.removeprefix("captured variable "))
    for kinds, advice in _BY_KIND:
        if isinstance(thing, kinds):
            return advice
    if package_of(type(thing)) in _CONNECTIONS:
        return "keep what is needed to open it, " + _LAZILY.format("open it")
    if not isinstance(reason, _OF_PICKLE):
        return "its own __reduce__, __getstate__ or the like raised this: mend that, or " + _MAKE
    return _MAKE + "; or make it in worker_init_fn"
