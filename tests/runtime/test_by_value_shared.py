"""What processes share already stays shared, and what each has for itself stays its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from safeloader.runtime import by_value
from tests.runtime.carrying import run_script, written

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_shared_stays_shared_by_all_processes_and_later_ones(tmp_path: Path) -> None:
    program = """
        import json, os
        import multiprocessing as mp
        from multiprocessing import shared_memory
        import numpy as np, torch
        from carrying import put, fresh
        context = mp.get_context("spawn")
        class Data:
            pass
        manager = mp.get_context("fork").Manager()
        data = Data()
        data.value, data.raw = context.Value("i", 1), context.RawArray("d", 4)
        data.lock, data.event, data.queue = context.Lock(), context.Event(), context.Queue()
        data.dict = manager.dict(a=1)
        data.receiver, data.sender = context.Pipe(duplex=False)
        data.memory = shared_memory.SharedMemory(create=True, size=64)
        data.tensor = torch.zeros(4).share_memory_()
        data.view = data.tensor[1:]
        data.parameter = torch.nn.Parameter(torch.zeros(2).share_memory_())
        data.own = torch.zeros(4)
        before = len(os.listdir("/proc/self/fd"))
        fd, (offset,), (packed,) = put(data)
        assert not data.own.is_shared()
        use = '''[
            obj.lock.acquire(timeout=10), setattr(obj.value, "value", obj.value.value + 1), obj.lock.release(),
            obj.raw.__setitem__(1, obj.raw[1] + 0.5), obj.event.set(), obj.queue.put(os.getppid()),
            obj.queue.close(), obj.queue.join_thread(),
            obj.dict.__setitem__("a", obj.dict["a"] + 1), obj.sender.send("hello"),
            obj.memory.buf.__setitem__(0, obj.memory.buf[0] + 1),
            obj.tensor.add_(1), obj.view.add_(1), obj.parameter.data.add_(1), obj.own.add_(1),
            obj.parameter.is_shared(),
        ][-1]'''
        said = []
        for process in range(2):
            said += fresh(fd, [(offset, use), (offset, use)], packed.fds)
        assert data.memory.buf[0] == 4, data.memory.buf[0]
        # A process that comes after others have ended, and one that reads in the trainer itself.
        said += fresh(fd, [(offset, "obj.tensor.tolist(), bytes(obj.memory.buf[:1]), obj.value.value")], packed.fds)
        import mmap
        obj, _ = __import__("safeloader").runtime.by_value.read(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY), offset)
        obj.tensor += 1
        obj.value.value += 1
        result = [data.value.value, data.raw[1], data.event.is_set(), data.dict["a"], data.tensor.tolist(),
                  data.parameter.tolist(), data.own.tolist(), data.queue.get(timeout=10) == os.getpid(),
                  data.receiver.recv()]
        del obj
        packed.close()
        os.close(fd)
        data.memory.close()
        data.memory.unlink()
        manager.shutdown()
        print(json.dumps([said, result]))
    """
    said, result = run_script(tmp_path, program)
    assert said == ["True"] * 4 + ["([4.0, 8.0, 8.0, 8.0], b'\\x04', 5)"]
    value, raw, event, entry, tensor, parameter, own, pid, word = result
    assert (value, raw, event, entry) == (6, 2.0, True, 5)
    assert (tensor, parameter, own) == ([5, 9, 9, 9], [4, 4], [0, 0, 0, 0])
    assert (pid, word) == (True, "hello")


def test_tensors_shared_by_name_stay_shared_however_often_they_are_read(tmp_path: Path) -> None:
    program = """
        import json, torch, torch.multiprocessing
        from carrying import put, fresh
        torch.multiprocessing.set_sharing_strategy("file_system")
        shared = torch.zeros(3).share_memory_()
        fd, (offset,), (packed,) = put([shared, shared[1:]])
        said = []
        for process in range(2):
            said += fresh(fd, [(offset, "obj[1].add_(1).tolist()")] * 3, packed.fds)
        print(json.dumps([said, shared.tolist()]))
    """
    said, shared = run_script(tmp_path, program)
    assert shared == [0, 6, 6]
    assert said == [f"[{n}.0, {n}.0]" for n in range(1, 7)]


def test_descriptors_may_have_other_numbers_in_the_reader() -> None:
    shared = torch.zeros(3).share_memory_()  # type: ignore[no-untyped-call]
    packed = by_value.pack(shared)
    moved = [os.dup(number) for number in packed.fds]
    mapping = written(packed)
    packed.close()
    try:
        tensor, _ = by_value.read(mapping, descriptors=moved)
    finally:
        for number in moved:
            os.close(number)
    tensor += 2
    assert shared.tolist() == [2, 2, 2]


def test_no_descriptor_is_left_after_close_or_after_a_failure(tmp_path: Path) -> None:
    program = """
        import gc, json, os, threading
        import torch
        from safeloader.errors import NotCarriableError
        from safeloader.runtime import by_value
        gc.collect()
        before = set(os.listdir("/proc/self/fd"))
        shared = torch.zeros(3).share_memory_()
        packed = by_value.pack(shared)
        assert packed.fds
        packed.close()
        packed.close()
        try:
            by_value.pack([shared, threading.Thread()])
        except NotCarriableError:
            refused = True
        del shared
        gc.collect()
        print(json.dumps([refused, sorted(set(os.listdir("/proc/self/fd")) ^ before)]))
    """
    assert run_script(tmp_path, program) == [True, []]
