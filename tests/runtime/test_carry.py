"""Objects go into fresh interpreters: what arrives, what stays shared, what is refused and in which words."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import io
import json
import mmap
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.serialization.cases import ALL
from safeloader.errors import NotCarriableError
from safeloader.runtime import carry

_ROOT = str(Path(__file__).resolve().parents[2])

# What the scripts below import: carry objects into new interpreters, and tell what an expression gives there.
_HELPER = """
import json, mmap, os, subprocess, sys
from safeloader.runtime import carry

READ = '''
import json, mmap, os, sys
fd, uses = int(sys.argv[1]), json.loads(sys.stdin.read())
mapping = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
from safeloader.runtime import carry
for offset, use in uses:
    try:
        obj, classes = carry.read(mapping, offset)
        said = repr(eval(use))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said), flush=True)
'''

def put(*objects):
    fd, offsets, packs = os.memfd_create("carry"), [], []
    for obj in objects:
        packs.append(carry.pack(obj))
        offsets.append(os.lseek(fd, -(-os.lseek(fd, 0, os.SEEK_CUR) // 4096) * 4096, os.SEEK_SET))
        carry.write(packs[-1], fd)
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


def run_script(folder: Path, source: str, *, name: str | None = None, timeout: float = 60) -> Any:
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
        env={**os.environ, "PYTHONPATH": _ROOT, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def written(packed: carry.Packed, *, access: int = mmap.ACCESS_COPY) -> mmap.mmap:
    """Write a packed object to a memory file and map it."""
    descriptor = os.memfd_create("carry")
    try:
        assert carry.write(packed, descriptor) == packed.size == os.fstat(descriptor).st_size
        return mmap.mmap(descriptor, 0, access=access)
    finally:
        os.close(descriptor)


def through(obj: Any) -> Any:
    return carry.read(written(carry.pack(obj)))[0]


def lies_in(array: Any, mapping: mmap.mmap) -> bool:
    start = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    address = array.data_ptr() if isinstance(array, torch.Tensor) else array.__array_interface__["data"][0]
    return bool(start <= address and address + array.nbytes <= start + len(mapping))


def in_main(source: str) -> dict[str, Any]:
    """Define things as if in a script, whose functions and classes go by value."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(source), space)
    return space


# ------------------------------------------------------------------ scripts


@pytest.fixture(scope="module")
def hard_cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """For each hard case: what its expression gives in the script, and in one fresh interpreter."""
    folder = tmp_path_factory.mktemp("cases")
    cases = [(case.name, case.source, case.use) for case in ALL]
    (folder / "cases.json").write_text(json.dumps(cases))
    program = """
        import json, os
        from carrying import put, fresh
        found = {}
        for name, source, use in json.load(open("cases.json")):
            exec(source)
            fd, (offset,), (packed,) = put(obj)
            found[name] = (fd, [offset, use], repr(eval(use)))
        names = list(found)
        # All streams into one file, so that one interpreter serves all cases.
        total, offsets = os.memfd_create("all"), []
        for name in names:
            fd, (offset, use), _ = found[name]
            start = -(-os.lseek(total, 0, os.SEEK_CUR) // 4096) * 4096
            os.lseek(total, start, os.SEEK_SET)
            os.write(total, os.pread(fd, 1 << 24, 0))
            offsets.append((start, use))
        there = fresh(total, offsets)
        print(json.dumps({name: [found[name][2], said] for name, said in zip(names, there)}))
    """
    result: dict[str, tuple[str, str]] = run_script(folder, program, timeout=120)
    return result


@pytest.mark.parametrize("name", [case.name for case in ALL])
def test_a_hard_case_is_used_in_a_fresh_interpreter_as_in_the_script(
    hard_cases: dict[str, tuple[str, str]], name: str
) -> None:
    here, there = hard_cases[name]
    assert there == here


def test_a_script_without_main_guard_is_never_run_again(tmp_path: Path) -> None:
    program = """
        open("runs", "a").write("x")
        import json
        from carrying import there
        class Data:
            def __getitem__(self, i):
                return i * FACTOR
        FACTOR = 3
        print(json.dumps(there(Data(), "obj[5]", "__import__('sys').modules['__main__'].__dict__.get('FACTOR')")))
    """
    assert run_script(tmp_path, program, name="train.py") == ["15", "None"]
    assert (tmp_path / "runs").read_text() == "x"


def test_classes_of_a_spawned_process_go_by_value(tmp_path: Path) -> None:
    program = """
        import json, multiprocessing
        class Data:
            def __getitem__(self, i):
                return i + 1
        def job(queue):
            from carrying import there
            queue.put(there(Data(), "obj[1]", "type(obj).__module__"))
        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            queue = context.SimpleQueue()
            process = context.Process(target=job, args=(queue,))
            process.start()
            print(json.dumps(queue.get()))
            process.join()
    """
    assert run_script(tmp_path, program, name="train.py") == ["2", "'__mp_main__'"]


def test_a_reader_that_cannot_rebuild_gets_the_original_exception(tmp_path: Path) -> None:
    program = """
        import json, sys
        from carrying import put, fresh
        open("only_here.py", "w").write("class C: pass")
        import only_here
        class Strict:
            def __setstate__(self, state):
                raise LookupError("state is from another year")
        strict = Strict()
        strict.x = 1
        fd, offsets, packs = put(only_here.C(), strict, 7)
        print(json.dumps(fresh(fd, [(offset, "obj") for offset in offsets])))
    """
    module, state, seven = run_script(tmp_path, program)
    assert module == "ModuleNotFoundError: No module named 'only_here'"
    assert state == "LookupError: state is from another year"
    assert seven == "7"


def test_published_classes_can_be_pickled_plainly_in_the_worker(tmp_path: Path) -> None:
    program = """
        import json
        from carrying import there
        class Word:
            n = 4
        use = "(carry.publish(classes), __import__('pickle').loads(__import__('pickle').dumps(obj)).n)[1]"
        print(json.dumps(there(Word(), "__import__('pickle').dumps(obj)", use)))
    """
    before, after = run_script(tmp_path, program)
    assert before.startswith("PicklingError")
    assert after == "4"


def test_the_reading_half_imports_nothing_but_the_standard_library(tmp_path: Path) -> None:
    heavy = ("torch", "numpy", "cloudpickle", "multiprocessing.context", "safeloader.runtime.carry.pickler")
    program = f"""
        import json, sys, types
        for name in ("safeloader", "safeloader.runtime"):  # their own imports are not the question here
            module = sys.modules[name] = types.ModuleType(name)
            module.__path__ = [{_ROOT!r} + "/" + name.replace(".", "/")]
        import safeloader.runtime.carry
        print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
    """
    assert run_script(tmp_path, program) == []


# ------------------------------------------------------------------ sharing


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
            obj.tensor.add_(1), obj.view.add_(1), obj.parameter.data.add_(1), obj.own.add_(1), obj.parameter.is_shared(),
        ][-1]'''
        said = []
        for process in range(2):
            said += fresh(fd, [(offset, use), (offset, use)], packed.fds)
        assert data.memory.buf[0] == 4, data.memory.buf[0]
        # A process that comes after others have ended, and one that reads in the trainer itself.
        said += fresh(fd, [(offset, "obj.tensor.tolist(), bytes(obj.memory.buf[:1]), obj.value.value")], packed.fds)
        import mmap
        obj, _ = __import__("safeloader").runtime.carry.read(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY), offset)
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
        for process in range(3):
            said += fresh(fd, [(offset, "obj[1].add_(1).tolist()")] * 2, packed.fds)
        print(json.dumps([said, shared.tolist()]))
    """
    said, shared = run_script(tmp_path, program)
    assert shared == [0, 6, 6]
    assert said == [f"[{n}.0, {n}.0]" for n in range(1, 7)]


def test_descriptors_may_have_other_numbers_in_the_reader() -> None:
    shared = torch.zeros(3).share_memory_()
    packed = carry.pack(shared)
    moved = [os.dup(number) for number in packed.fds]
    mapping = written(packed)
    packed.close()
    try:
        tensor, _ = carry.read(mapping, descriptors=moved)
    finally:
        for number in moved:
            os.close(number)
    tensor += 2
    assert shared.tolist() == [2, 2, 2]


def test_no_descriptor_is_left_after_close_or_after_a_failure() -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    shared = torch.zeros(3).share_memory_()
    packed = carry.pack(shared)
    assert packed.fds
    packed.close()
    packed.close()
    with pytest.raises(NotCarriableError):
        carry.pack([shared, threading.Lock()])
    del shared
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------ memory


def test_big_arrays_and_tensors_are_not_copied_by_pack() -> None:
    array, tensor = np.ones(1 << 20), torch.ones(1 << 18)
    packed = carry.pack({"array": array, "tensor": tensor, "again": array})
    assert [buffer.nbytes for buffer in packed.buffers] == [array.nbytes, tensor.nbytes]
    assert np.shares_memory(np.frombuffer(packed.buffers[0]), array)
    assert np.shares_memory(np.frombuffer(packed.buffers[1], np.float32), tensor.numpy())
    assert len(packed.stream) < 2000


def test_arrays_and_tensors_are_writable_views_of_the_mapping_at_aligned_addresses() -> None:
    made = [np.arange(5000.0), torch.arange(5000), np.asfortranarray(np.ones((70, 30))), torch.ones(3, 500).t()]
    packed = carry.pack(made)
    mapping = written(packed)
    found, _ = carry.read(mapping)
    for before, after in zip(made, found, strict=True):
        assert lies_in(after, mapping)
        assert np.array_equal(np.asarray(before), np.asarray(after))
        address = after.__array_interface__["data"][0] if isinstance(after, np.ndarray) else after.data_ptr()
        assert address % 64 == 0
        after[0] = 7
    assert made[0][0] == 0
    assert made[2].flags.f_contiguous
    assert found[2].flags.f_contiguous
    assert found[3].stride() == made[3].stride()


def test_two_reads_of_two_mappings_are_independent() -> None:
    space = in_main("""
        count = 0
        def bump():
            global count
            count += 1
            return count
        class Data:
            def __getitem__(self, i):
                return count
    """)
    packed = carry.pack([np.zeros(3000), space["bump"], space["Data"]()])
    (first, first_classes), (second, second_classes) = (carry.read(written(packed)) for _ in range(2))
    first[0][0] = 5
    first[1]()
    assert second[0][0] == 0
    assert (first[2][0], second[2][0]) == (1, 0)
    assert first_classes[0] is not second_classes[0]
    assert space["count"] == 0


def test_many_readers_of_a_big_array_hold_it_once(tmp_path: Path) -> None:
    program = """
        import json, numpy
        from carrying import there
        array = numpy.ones(64 << 20, dtype=numpy.uint8)
        private = '''(int(obj.sum()), sum(int(line.split()[1]) for line in open("/proc/self/smaps")
                   if line.startswith("Anonymous:")))'''
        print(json.dumps(there(array, private)))
    """
    (said,) = run_script(tmp_path, program)
    total, private = json.loads(said.replace("(", "[").replace(")", "]"))
    assert total == 64 << 20
    assert private < 40 << 10  # kB; the array alone has 64 MB


def test_more_buffers_than_one_system_call_takes_arrive_in_order() -> None:
    made = [np.full(2000, n, np.uint16) for n in range(1500)] + [np.zeros(0), np.ones(3)]
    packed = carry.pack(made)
    assert len(packed.buffers) == 1500
    found, _ = carry.read(written(packed))
    assert all(np.array_equal(before, after) for before, after in zip(made, found, strict=True))


def test_a_read_only_mapping_gives_read_only_arrays_and_writable_copies_of_tensors() -> None:
    mapping = written(carry.pack([np.ones(2000), torch.ones(2000)]), access=mmap.ACCESS_READ)
    (array, tensor), _ = carry.read(mapping)
    assert not array.flags.writeable
    tensor[0] = 5
    assert carry.read(mapping)[0][1][0] == 1


def test_what_is_not_a_packed_object_is_refused() -> None:
    data = b"".join(carry.pack(np.ones(500))._pieces())
    with pytest.raises(ValueError, match="not a packed object"):
        carry.read(bytes(200))
    with pytest.raises(ValueError, match="was cut to"):
        carry.read(data[:-1])


def test_an_object_may_begin_anywhere_in_the_mapping() -> None:
    data = bytearray(4096) + b"".join(carry.pack({"a": np.ones(500)})._pieces())
    found, _ = carry.read(data, 4096)
    assert found["a"].sum() == 500


def test_plain_data_packs_as_fast_as_plain_pickle() -> None:
    def best(run: Any) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    for data in (list(range(500_000)), [str(n) for n in range(200_000)]):
        plain = best(lambda data=data: pickle.dumps(data, 5))
        assert best(lambda data=data: carry.pack(data)) < 2 * plain + 0.05


# ------------------------------------------------------------------ tensors


class Tagged(torch.Tensor):
    """A subclass that a fresh interpreter can import."""


def _tensors() -> dict[str, Any]:
    some = torch.arange(24.0).reshape(4, 6)
    tagged = torch.ones(500).as_subclass(Tagged)
    tagged.tag = "t"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes on its own prototypes
        return {
            "leaf with gradient": torch.ones(500, requires_grad=True),
            "parameter": torch.nn.Parameter(torch.ones(500), requires_grad=False),
            "subclass": tagged,
            "strided": some[::2, 1::2],
            "expanded": torch.ones(1, 3).expand(500, 3),
            "scalar": torch.tensor(3),
            "empty": torch.empty(0, 3),
            "conjugate": torch.ones(300, dtype=torch.complex64).conj(),
            "coo": torch.eye(300).to_sparse(),
            "csr": torch.eye(300).to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(torch.ones(2000), 0.1, 3, torch.qint8),
            "nested": torch.nested.nested_tensor([torch.ones(300), torch.ones(400)]),
            "meta": torch.empty(3, device="meta"),
            "channels last": torch.ones(2, 3, 8, 8).to(memory_format=torch.channels_last),
        }


@pytest.mark.parametrize("kind", list(_tensors()))
def test_a_tensor_arrives_as_it_was(kind: str) -> None:
    before = _tensors()[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = through([before])[0]
    assert type(after) is type(before)
    assert (after.dtype, after.layout, after.requires_grad) == (before.dtype, before.layout, before.requires_grad)
    assert getattr(after, "tag", None) == getattr(before, "tag", None)
    if kind == "nested":
        before, after = before.values(), after.values()
    if before.layout is torch.strided:
        assert not after.is_shared()
        assert not before.is_shared()
        assert (after.shape, after.stride()) == (before.shape, before.stride())
    if kind != "meta":
        dense = [t.dequantize() if t.is_quantized else t.to_dense() for t in (before, after)]
        assert torch.equal(*dense)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int64", "float16", "bfloat16", "float64", "complex64", "complex128", "float8_e4m3fn"],
)
def test_a_tensor_of_any_dtype_lies_in_the_mapping(dtype: str) -> None:
    before = torch.ones(3000).to(getattr(torch, dtype))
    mapping = written(carry.pack(before))
    after, _ = carry.read(mapping)
    assert after.dtype == before.dtype
    assert lies_in(after, mapping)
    assert torch.equal(after.view(torch.uint8), before.view(torch.uint8))


def test_views_of_one_memory_stay_views_of_one_memory() -> None:
    base = torch.zeros(4, 500)
    made = [base, base[1], base.untyped_storage(), torch.nn.Parameter(base[2], requires_grad=False), base.T]
    packed = carry.pack(made)
    assert len(packed.buffers) == 1
    base, row, storage, parameter, transposed = carry.read(written(packed))[0]
    row += 1
    parameter += 2
    assert base.sum(1).tolist() == [0, 500, 1000, 0]
    assert transposed.sum() == 1500
    assert storage.data_ptr() == base.data_ptr()


def test_empty_tensors_do_not_share_what_they_grow_into() -> None:
    first, second = through([torch.empty(0), torch.empty(0)])
    first.resize_(3).fill_(1)
    second.resize_(3).fill_(2)
    assert first.tolist() == [1, 1, 1]


def test_a_module_with_buffers_and_a_generator_of_random_numbers_arrive() -> None:
    generator = torch.Generator().manual_seed(7)
    net = torch.nn.Sequential(torch.nn.Linear(30, 30), torch.nn.BatchNorm1d(30))
    net_there, generator_there = through([net, generator])
    state = net_there.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.rand(5, generator=generator), torch.rand(5, generator=generator_there))


# ------------------------------------------------------------------ files of arrays


def test_a_memory_mapped_file_goes_by_name_and_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.npy"
    np.save(path, np.arange(300_000.0).reshape(300, 1000))
    whole = np.load(path, mmap_mode="r")
    packed = carry.pack([whole, whole[7:9], whole[5], whole.T])
    assert packed.buffers == []
    assert len(packed.stream) < 2000
    found, _ = carry.read(written(packed))
    for before, after in zip([whole, whole[7:9], whole[5], whole.T], found, strict=True):
        assert isinstance(after, np.memmap)
        assert np.array_equal(before, after)
        assert after.strides == before.strides
        assert not after.flags.writeable


def test_a_writable_memory_mapped_file_is_written_by_the_reader(tmp_path: Path) -> None:
    made = np.memmap(tmp_path / "out", np.int32, "w+", shape=(2000,))
    found = through(made)
    found[3] = 9
    found.flush()
    assert made[3] == 9


def test_a_mapped_array_without_its_file_goes_by_value(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    np.arange(2000).tofile(path)
    private, mapped = np.memmap(path, np.int64, "c"), np.memmap(path, np.int64, "r")
    private[0] = 5
    expected = [np.array(private), np.array(mapped + 1), np.array(mapped[::2]), np.array(mapped)]
    made = [private, mapped + 1, mapped[::2], mapped]
    before = through(made[:3])
    path.unlink()
    after = through(made)
    for found in (before, after):
        for array, wanted in zip(found, expected, strict=False):
            assert np.array_equal(array, wanted)


# ------------------------------------------------------------------ by reference or by value


def test_what_can_be_imported_goes_by_name() -> None:
    packed = carry.pack([textwrap.dedent, Tagged, json.JSONDecoder, Path, in_main, np.ndarray, torch.relu])
    assert packed.classes == []
    assert b"cloudpickle" not in packed.stream
    assert len(packed.stream) < 600


def test_a_second_module_of_a_name_that_can_be_imported_goes_by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, value in (("first", 1), ("second", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "carried_utils.py").write_text(f"def f():\n    return {value}\n")
    spec = importlib.util.spec_from_file_location("carried_utils", tmp_path / "second" / "carried_utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "carried_utils", module)
    spec.loader.exec_module(module)
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    packed = carry.pack(module.f)
    monkeypatch.delitem(sys.modules, "carried_utils")
    assert carry.read(written(packed))[0]() == 2


def test_the_classes_come_in_the_same_order_on_both_sides() -> None:
    space = in_main("""
        import enum
        class A: pass
        class B(A): pass
        class Kind(enum.Enum):
            X = 1
        class Unused: pass
        obj = [B(), Kind.X, A, lambda: B]
    """)
    packed = carry.pack(space["obj"])
    _, found = carry.read(written(packed))
    assert [cls.__qualname__ for cls in found] == [cls.__qualname__ for cls in packed.classes]
    assert set(packed.classes) == {space["A"], space["B"], space["Kind"]}


def test_the_trainer_can_read_its_own_stream_with_its_own_classes_untouched() -> None:
    space = in_main("""
        class Data:
            def get(self):
                return "own"
        obj = Data()
    """)
    method = space["Data"].get
    packed = carry.pack(space["obj"])
    found, classes = carry.read(written(packed), classes=packed.classes)
    assert type(found) is space["Data"]
    assert classes == packed.classes
    assert space["Data"].get is method
    other, _ = carry.read(written(packed))
    assert type(other) is not space["Data"]
    assert space["Data"].get is method


def test_instances_of_carried_classes_travel_back_by_the_number_of_their_class() -> None:
    space = in_main("""
        import collections
        Batch = collections.namedtuple("Batch", "x y")
        class Bad(ValueError): pass
        obj = lambda: (Batch(1, 2), Bad("torn", 3))
    """)
    packed = carry.pack(space["obj"])
    make, there = carry.read(written(packed))
    data = carry.dumps(make(), there)
    batch, error = carry.loads(data, packed.classes)
    assert type(batch) is space["Batch"]
    assert batch == (1, 2)
    assert type(error) is space["Bad"]
    assert error.args == ("torn", 3)
    assert len(data) < 250
    with pytest.raises(LookupError, match="class 0"):
        carry.loads(data)


def test_small_things_of_the_script_go_by_value_without_a_table() -> None:
    space = in_main("""
        class Index:
            def __init__(self, i):
                self.i = i
        def twice(x):
            return 2 * x
    """)
    data = carry.dumps([space["Index"](4), space["twice"], torch.ones(3), torch.ones(3).share_memory_(), np.ones(9999)])
    index, twice, plain, shared, array = carry.loads(data)
    assert (index.i, twice(4), plain.sum(), shared.sum(), array.sum()) == (4, 8, 3, 3, 9999)
    assert not shared.is_shared()
    shared += 1


# ------------------------------------------------------------------ refusals


class Holder:
    """A dataset that holds one thing two levels down, and whose parts refer back to it."""

    def __init__(self, thing: Any) -> None:
        self.name = "fine"
        self.transform = type(self).__new__(type(self))
        self.transform.thing = thing
        self.transform.owner = self


class Raises:
    def __reduce__(self) -> Any:
        raise KeyError("no such year")


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, threading.Lock()


def _generator() -> Any:
    yield 1


_REFUSED: dict[str, tuple[Any, str, str]] = {
    "lock": (threading.Lock, "a _thread.lock", "make a new one on first use"),
    "condition": (threading.Condition, "a threading.Condition", "make a new one on first use"),
    "thread": (lambda: threading.Thread(target=print), "a threading.Thread", "worker_init_fn"),
    "text file": (lambda: open(os.devnull), "an _io.TextIOWrapper", "keep the path"),
    "binary file": (lambda: open(os.devnull, "rb"), "an _io.BufferedReader", "keep the path"),
    "generator": (_generator, "a generator", "keep the function"),
    "socket": (socket.socket, "a socket.socket", "keep the address"),
    "pointer": (lambda: ctypes.pointer(ctypes.c_int(1)), "LP_c_int", "a pointer is an address"),
    "database": (lambda: sqlite3.connect(":memory:"), "a sqlite3.Connection", "open it in the first __getitem__"),
    "mapped file": (lambda: mmap.mmap(-1, 10), "a mmap.mmap", "numpy.memmap"),
    "own __reduce__": (Raises, "Raises", "its own __reduce__"),
    "result with gradient": (lambda: torch.ones(2, requires_grad=True) * 2, "a torch.Tensor", "detach()"),
    "memory of another device": (lambda: torch.ones(2, device="meta").untyped_storage(), "on meta", "the CPU"),
}


@pytest.mark.parametrize("kind", list(_REFUSED))
def test_what_cannot_be_carried_is_named_with_its_place_its_kind_and_what_to_try(kind: str) -> None:
    make, described, advice = _REFUSED[kind]
    thing = make()
    try:
        with pytest.raises(NotCarriableError) as caught:
            carry.pack((Holder(thing), 3), what={"dataset": Holder(thing), "n": 3})
    finally:
        if hasattr(thing, "close"):
            thing.close()
    error = caught.value
    assert error.path == "dataset.transform.thing"
    assert error.what.startswith("dataset.transform.thing (a")
    assert described in error.what
    assert "cannot be sent to a worker process" in error.what
    assert advice in error.hint
    assert error.__cause__ is not None


def test_the_exception_of_an_objects_own_method_is_the_cause() -> None:
    with pytest.raises(NotCarriableError, match="no such year") as caught:
        carry.pack(Holder(Raises()))
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.path == "object.transform.thing"


_SCRIPT = """
    import functools, threading
    LOCK = threading.Lock()
    def reads_global(batch):
        with LOCK:
            return batch
    def make():
        lock = threading.Lock()
        return lambda batch: (lock, batch)
    captures = make()
    class Data:
        def __getitem__(self, i):
            with LOCK:
                return i
    class Derived(Data):
        pass
    class WithAttribute:
        lock = LOCK
    class Rows(list):
        pass
    def default(batch, lock=LOCK):
        return batch
    partial = functools.partial(print, 1, end=LOCK)
    method = functools.partial(Data().__getitem__, 3)
"""


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("reads_global", "root → global variable 'LOCK'"),
        ("captures", "root → captured variable 'lock'"),
        ("default", "root → default of 'lock'"),
        ("partial", "root.keywords['end']"),
        ("method", "root.func.__func__ → global variable 'LOCK'"),
        ("Data()", "root.__getitem__ → global variable 'LOCK'"),
        ("Derived()", "root → base class Data.__getitem__ → global variable 'LOCK'"),
        ("WithAttribute()", "root.lock"),
        ("Rows([1, 2, LOCK])", "root[2]"),
        ("{'a': [1, {'b': (LOCK,)}]}", "root['a'][1]['b'][0]"),
        ("{LOCK: 1}", f"root → key {'<unlocked _thread.lock object at 0x'}"),
        ("{1, LOCK}", "root → an element"),
    ],
)
def test_the_path_leads_through_functions_classes_and_containers(expression: str, path: str) -> None:
    root = eval(expression, in_main(_SCRIPT))
    with pytest.raises(NotCarriableError) as caught:
        carry.pack(root, what={"root": root})
    assert caught.value.path.startswith(path)
    assert "_thread.lock" in caught.value.what


def test_slots_and_properties_are_looked_into() -> None:
    with pytest.raises(NotCarriableError) as caught:
        carry.pack(Slotted(), what={"dataset": Slotted()})
    assert caught.value.path == "dataset.b"


def test_a_lock_made_for_fork_is_refused_with_the_context_to_use() -> None:
    import multiprocessing

    value = multiprocessing.get_context("fork").Value("i", 0)
    with pytest.raises(NotCarriableError, match="fork context") as caught:
        carry.pack(Holder(value), what={"dataset": Holder(value)})
    assert caught.value.path == "dataset.transform.thing"
    assert 'get_context("spawn")' in caught.value.hint


def test_one_bad_entry_among_a_million_is_found_in_seconds() -> None:
    made: list[Any] = [0] * 1_000_000
    made[777_777] = threading.Lock()
    start = time.monotonic()
    with pytest.raises(NotCarriableError) as caught:
        carry.pack(made, what={"files": made})
    assert caught.value.path == "files[777777]"
    assert time.monotonic() - start < 8


def test_what_is_nested_too_deeply_is_said_to_be_so() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotCarriableError, match="nested too deeply"):
        carry.pack(deep)


def test_a_shared_object_is_refused_in_a_message() -> None:
    import multiprocessing

    with pytest.raises(NotCarriableError, match="another process") as caught:
        carry.dumps([multiprocessing.get_context("spawn").Lock()])
    assert caught.value.path == "object[0]"
    assert "start" in caught.value.hint


def test_standard_streams_stay_the_readers_own() -> None:
    assert through(io.StringIO("kept")).read() == "kept"
    packed = carry.pack(in_main("import sys\ndef f(out=sys.stderr): return out")["f"])
    assert carry.read(written(packed))[0]() is sys.stderr
