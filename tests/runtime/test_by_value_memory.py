"""Arrays and tensors: whose memory they are, in the trainer and in the reader."""

from __future__ import annotations

import functools
import json
import mmap
import pickle
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from safeloader.runtime import by_value
from tests.runtime.carrying import in_main, lies_in, run_script, through, written

if TYPE_CHECKING:
    from pathlib import Path

# ------------------------------------------------------------------ memory


def test_big_arrays_and_tensors_are_not_copied_by_pack() -> None:
    array, tensor = np.ones(1 << 20), torch.ones(1 << 18)
    packed = by_value.pack({"array": array, "tensor": tensor, "again": array})
    assert [buffer.nbytes for buffer in packed.buffers] == [array.nbytes, tensor.nbytes]
    assert np.shares_memory(np.frombuffer(packed.buffers[0]), array)
    assert np.shares_memory(np.frombuffer(packed.buffers[1], np.float32), tensor.numpy())
    assert len(packed.stream) < 2000


def test_arrays_and_tensors_are_writable_views_of_the_mapping_at_aligned_addresses() -> None:
    made: list[Any] = [
        np.arange(5000.0),
        torch.arange(5000),
        np.asfortranarray(np.ones((70, 30))),
        torch.ones(3, 500).t(),
    ]
    packed = by_value.pack(made)
    mapping = written(packed)
    found, _ = by_value.read(mapping)
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
    packed = by_value.pack([np.zeros(3000), space["bump"], space["Data"]()])
    (first, first_classes), (second, second_classes) = (by_value.read(written(packed)) for _ in range(2))
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
    packed = by_value.pack(made)
    assert len(packed.buffers) == 1500
    found, _ = by_value.read(written(packed))
    assert all(np.array_equal(before, after) for before, after in zip(made, found, strict=True))


def test_a_read_only_mapping_gives_read_only_arrays_and_writable_copies_of_tensors() -> None:
    mapping = written(by_value.pack([np.ones(2000), torch.ones(2000)]), access=mmap.ACCESS_READ)
    (array, tensor), _ = by_value.read(mapping)
    assert not array.flags.writeable
    tensor[0] = 5
    assert by_value.read(mapping)[0][1][0] == 1


def test_what_is_not_a_packed_object_is_refused() -> None:
    data = b"".join(by_value.pack(np.ones(500))._pieces())
    with pytest.raises(ValueError, match="not a packed object"):
        by_value.read(bytes(200))
    with pytest.raises(ValueError, match="was cut to"):
        by_value.read(data[:-1])


def test_an_object_may_begin_anywhere_in_the_mapping() -> None:
    data = bytearray(4096) + b"".join(by_value.pack({"a": np.ones(500)})._pieces())
    found, _ = by_value.read(data, 4096)
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
        plain = best(functools.partial(pickle.dumps, data, 5))
        assert best(functools.partial(by_value.pack, data)) < 2 * plain + 0.05


# ------------------------------------------------------------------ tensors


class Tagged(torch.Tensor):
    """A subclass that a fresh interpreter can import."""

    tag: str


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
    mapping = written(by_value.pack(before))
    after, _ = by_value.read(mapping)
    assert after.dtype == before.dtype
    assert lies_in(after, mapping)
    assert torch.equal(after.view(torch.uint8), before.view(torch.uint8))


def test_views_of_one_memory_stay_views_of_one_memory() -> None:
    base = torch.zeros(4, 500)
    made = [base, base[1], base.untyped_storage(), torch.nn.Parameter(base[2], requires_grad=False), base.T]
    packed = by_value.pack(made)
    assert len(packed.buffers) == 1
    base, row, storage, parameter, transposed = by_value.read(written(packed))[0]
    row += 1
    parameter += 2
    assert base.sum(1).tolist() == [0, 500, 1000, 0]
    assert transposed.sum() == 1500
    assert storage.data_ptr() == base.data_ptr()


class Overlapping:
    """An array, and what looks into it."""

    def __init__(self) -> None:
        self.whole = np.arange(5000.0)
        self.part, self.backwards, self.others = self.whole[100:4001], self.whole[::-1], self.whole[::2]
        self.tensor = torch.from_numpy(self.whole)
        self.windows = [self.whole[start : start + 2000] for start in range(0, 3000, 3)]
        self.sliding = np.lib.stride_tricks.sliding_window_view(self.whole, 1000)
        self.column = np.arange(20_000).reshape(2000, 10)[:, 3]

    def seen(self) -> list[float]:
        self.whole[200] = -1.0
        seen = (self.part[100], self.backwards[-201], self.others[100], self.tensor[200], self.windows[50][50])
        return [float(value) for value in (*seen, self.sliding[150, 50], self.column[2])]


def test_what_overlaps_in_memory_overlaps_in_the_reader_and_takes_no_more_room() -> None:
    made = Overlapping()
    packed = by_value.pack(made)
    assert packed.size < 150_000, "the windows alone would be 48 MB"
    again, _ = by_value.read(written(packed))
    assert again.windows[7].tobytes() == made.windows[7].tobytes()
    assert again.seen() == [-1.0] * 6 + [23.0] == Overlapping().seen()
    assert made.whole[200] == 200.0
    assert not again.sliding.flags.writeable


def test_what_is_small_overlaps_too() -> None:
    whole = np.zeros(9)
    parts = {"view": whole[2:], "steps": whole[::-2], "tensor": torch.from_numpy(whole), "other": np.zeros(9)}  # type: ignore[no-untyped-call]
    again, views = through((whole, parts))
    again[4] = 1
    assert {name: float(view.sum()) for name, view in views.items()} == {"view": 1, "steps": 1, "tensor": 1, "other": 0}


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
    packed = by_value.pack([whole, whole[7:9], whole[5], whole.T])
    assert packed.buffers == []
    assert len(packed.stream) < 2000
    found, _ = by_value.read(written(packed))
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
