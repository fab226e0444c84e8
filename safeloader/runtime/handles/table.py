"""Which class is carried by whom: by its name, so that no library has to be imported for the question."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from safeloader.runtime.user_code import module_of, package_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["handler_for", "register", "registered", "unregister"]

Handler = Any  # called with the pickler and the object; returns what pickle knows as a reduction

_BY_CLASS = {
    "_thread.lock": "locks:reduce_lock",
    "_thread.RLock": "locks:reduce_rlock",
    "threading._RLock": "locks:reduce_rlock",
    "threading.Condition": "locks:reduce_condition",
    "threading.BoundedSemaphore": "locks:reduce_bounded",
    "threading.Barrier": "locks:reduce_barrier",
    "threading.Thread": "locks:refuse_running",
    "subprocess.Popen": "locks:refuse_running",
    "multiprocessing.process.BaseProcess": "locks:refuse_running",
    "concurrent.futures.thread.ThreadPoolExecutor": "locks:reduce_executor",
    "concurrent.futures._base.Executor": "locks:refuse_running",
    "concurrent.futures._base.Future": "locks:refuse_running",
    "_thread._local": "locks:reduce_local",
    "_queue.SimpleQueue": "locks:reduce_simple_queue",
    "_io.FileIO": "files:reduce_raw",
    "_io.BufferedReader": "files:reduce_buffered",
    "_io.BufferedRandom": "files:refuse_writing",
    "_io.BufferedWriter": "files:refuse_writing",
    "_io.BufferedRWPair": "files:refuse_writing",
    "_io.TextIOWrapper": "files:reduce_text",
    "tempfile._TemporaryFileWrapper": "files:reduce_temporary",
    "codecs.StreamReader": "files:reduce_codec",
    "codecs.StreamWriter": "files:reduce_codec",
    "codecs.StreamReaderWriter": "files:reduce_codec",
    "codecs.StreamRecoder": "files:reduce_codec",
    "_compression.DecompressReader": "archives:reduce_decompressing",
    "compression._common._streams.DecompressReader": "archives:reduce_decompressing",
    "gzip._GzipReader": "archives:reduce_gzip",
    "zipfile.ZipFile": "archives:reduce_zip",
    "zipfile.ZipExtFile": "archives:reduce_member",
    "numpy.lib.npyio.NpzFile": "archives:reduce_npz",
    "mmap.mmap": "maps:reduce_mmap",
    "numpy.ndarray": "shared_maps:reduce_array",
    "multiprocessing.synchronize.SemLock": "shared_maps:reduce_semaphore",
    "multiprocess.synchronize.SemLock": "shared_maps:reduce_semaphore",
    "billiard.synchronize.SemLock": "shared_maps:reduce_semaphore",
    "ctypes.CDLL": "libraries:reduce_library",
    "_ctypes.CFuncPtr": "libraries:reduce_function",
    "sqlite3.Row": "sqlite:reduce_row",
    "sqlite3.Connection": "sqlite:reduce_connection",
    "sqlite3.Cursor": "sqlite:reduce_cursor",
    "h5py._hl.base.HLObject": "hdf5:reduce_object",
    "h5py._hl.attrs.AttributeManager": "hdf5:reduce_attributes",
    "builtins.Environment": "lmdb_environments:reduce_environment",
    "lmdb.cffi.Environment": "lmdb_environments:reduce_environment",
    "builtins.Transaction": "lmdb_environments:refuse_part",
    "builtins.Cursor": "lmdb_environments:refuse_part",
    "builtins._Database": "lmdb_environments:refuse_part",
    "pyarrow.lib.MemoryMappedFile": "arrow:reduce_mapped",
    "pyarrow.lib.OSFile": "arrow:reduce_file",
    "pyarrow.parquet.core.ParquetFile": "arrow:reduce_parquet",
    "cv2.VideoCapture": "videos:reduce_capture",
    "av.container.input.InputContainer": "videos:reduce_container",
    "av.container.output.OutputContainer": "videos:refuse_output",
    "av.stream.Stream": "videos:reduce_stream",
    "decord.video_reader.VideoReader": "videos:reduce_decord",
    "PIL.ImageFile.ImageFile": "images:reduce_image",
}
_OWN_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__")

_registered: dict[type, Callable[[Any], Any]] = {}


def register(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Let objects of exactly this class go as ``reduce(obj)`` says.

    Raises:
        TypeError: this is no class, or nothing that can be called.
        ValueError: the class is registered already, with another function.
    """
    if not isinstance(kind, type):
        raise TypeError(f"a class is registered, not {kind!r}")
    if not callable(reduce):
        raise TypeError(f"{kind.__qualname__} is registered with a function that reduces it, not with {reduce!r}")
    before = _registered.get(kind)
    if before is not None and _name(before) != _name(reduce):
        raise ValueError(
            f"{_name(kind)} is registered already, with {_name(before)}; to register {_name(reduce)} instead, call "
            "safeloader.carry.unregister() first"
        )
    _registered[kind] = reduce


def unregister(kind: type) -> None:
    """Forget what was registered for a class, if anything was."""
    _registered.pop(kind, None)


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(thing))}"


def registered(kind: type) -> Handler | None:
    """How objects of a class go as their user wants it; None where nothing is registered."""
    reduce = _registered.get(kind)
    if reduce is None:
        return None

    def handler(pickler: Any, obj: Any) -> Any:
        reduced = reduce(obj)
        if not isinstance(reduced, tuple) or len(reduced) < 2:
            return reduced
        make, args, *rest = reduced
        return (*pickler.reopened(obj, f"a {_name(kind)}", make, *args), *rest)

    return handler


def handler_for(kind: type) -> Handler | None:
    """How objects of a class go that is here, or whose base is. A subclass's own way to be pickled goes first, unless
    it is of the same library."""
    own: set[str] = set()
    for cls in kind.__mro__[:-1]:
        library = package_of(cls)
        found = _BY_CLASS.get(f"{module_of(cls)}.{cls.__qualname__}")
        if found is not None:
            if own - {library}:
                return None
            module, _, name = found.partition(":")
            return getattr(importlib.import_module(f"safeloader.runtime.handles.{module}"), name)
        if any(_is_own(vars(cls).get(way)) for way in _OWN_WAYS):
            own.add(library)
    return None


def _is_own(way: Any) -> bool:
    """Cython gives its classes a way that only says that there is none."""
    return way is not None and not getattr(way, "__name__", "").endswith("_cython__")
