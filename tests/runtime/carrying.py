"""What the tests of `by_value` share: scripts in interpreters of their own, and memory files."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safeloader.runtime import by_value

ROOT = str(Path(__file__).resolve().parents[2])

# What the scripts below import: carry objects into new interpreters, and tell what an expression gives there.
_HELPER = """
import json, mmap, os, subprocess, sys
from safeloader.runtime import by_value

READ = '''
import json, mmap, os, sys
fd, uses = int(sys.argv[1]), json.loads(sys.stdin.read())
mapping = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
from safeloader.runtime import by_value
for offset, use in uses:
    try:
        obj, classes = by_value.read(mapping, offset)
        said = repr(eval(use))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said), flush=True)
'''

def put(*objects):
    fd, offsets, packs = os.memfd_create("carry"), [], []
    for obj in objects:
        packs.append(by_value.pack(obj))
        offsets.append(os.lseek(fd, -(-os.lseek(fd, 0, os.SEEK_CUR) // 4096) * 4096, os.SEEK_SET))
        by_value.write(packs[-1], fd)
    return fd, offsets, packs

def fresh(fd, uses, inherited=()):
    done = subprocess.run(
        [sys.executable, "-c", READ, str(fd)], input=json.dumps(uses), stdout=subprocess.PIPE, text=True,
        pass_fds=[fd, *inherited], timeout=60, cwd="/", check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]

def there(obj, *uses):
    fd, (offset,), (packed,) = put(obj)
    said = fresh(fd, [(offset, use) for use in uses], packed.fds)
    packed.close()
    os.close(fd)
    return said
"""


def run_script(folder: Path, source: str, *, name: str | None = None, timeout: float = 110) -> Any:
    """Run a script from the standard input, or from a file `name`; return what it printed last, as JSON."""
    (folder / "carrying.py").write_text(_HELPER)
    source = textwrap.dedent(source)
    arguments = ["-"]
    if name is not None:
        (folder / name).write_text(source)
        arguments = [name]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *arguments],
        input=None if name else source,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def written(packed: by_value.Packed, *, access: int = mmap.ACCESS_COPY) -> mmap.mmap:
    """Write a packed object to a memory file and map it."""
    descriptor = os.memfd_create("by_value")
    try:
        assert by_value.write(packed, descriptor) == packed.size == os.fstat(descriptor).st_size
        return mmap.mmap(descriptor, 0, access=access)
    finally:
        os.close(descriptor)


def through(obj: Any) -> Any:
    packed = by_value.pack(obj)
    return by_value.read(written(packed))[0]


def lies_in(array: Any, mapping: mmap.mmap) -> bool:
    start = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    address = array.data_ptr() if isinstance(array, torch.Tensor) else array.__array_interface__["data"][0]
    return bool(start <= address and address + array.nbytes <= start + len(mapping))


def in_main(source: str) -> dict[str, Any]:
    """Define things as if in a script, whose functions and classes go by value."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(source), space)
    return space
