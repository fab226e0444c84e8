"""What a script defines, in fresh interpreters that read what was packed."""

from __future__ import annotations

import importlib.util
import json
import sys
import textwrap
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safeloader import DataLoader
from safeloader.errors import NotCarriableError, StartError
from safeloader.runtime import by_value
from safeloader.runtime.by_value.importable import importable_as
from tests.runtime.carrying import ROOT, in_main, run_script, written
from tests.runtime.hard_cases import ALL

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
    result: dict[str, tuple[str, str]] = run_script(folder, program)
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


def test_the_reading_half_imports_nothing_but_the_standard_library(tmp_path: Path) -> None:
    heavy = ("torch", "numpy", "cloudpickle", "multiprocessing.context", "safeloader.runtime.by_value.pickler")
    program = f"""
        import json, sys, types
        for name in ("safeloader", "safeloader.runtime"):  # their own imports are not the question here
            module = sys.modules[name] = types.ModuleType(name)
            module.__path__ = [{ROOT!r} + "/" + name.replace(".", "/")]
        import safeloader.runtime.by_value
        print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
    """
    assert run_script(tmp_path, program) == []


# ------------------------------------------------------------------ by reference or by value


def test_what_can_be_imported_goes_by_name() -> None:
    packed = by_value.pack([textwrap.dedent, StartError, json.JSONDecoder, Path, in_main, np.ndarray, torch.relu])
    assert packed.classes == []
    assert b"cloudpickle" not in packed.stream
    assert len(packed.stream) < 600


class PacksInAThread:
    """Another thread packs something while this is packed."""

    def __init__(self, *other: object) -> None:
        self.other = other
        self.packed: list[by_value.Packed] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        thread = threading.Thread(target=lambda: self.packed.append(by_value.pack(self.other)))
        thread.start()
        thread.join()
        return list, ()


def test_each_pack_tells_its_own_modules_whatever_other_threads_pack_meanwhile() -> None:
    inner = PacksInAThread(json.JSONDecoder)
    outer = by_value.pack([textwrap.dedent, inner, Path])
    assert {"textwrap", "pathlib"} <= {name.split(".")[0] for name in outer.modules}
    assert "json.decoder" not in outer.modules
    assert [[name for name in packed.modules if "." in name] for packed in inner.packed] == [["json.decoder"]]
    assert "textwrap" not in inner.packed[0].modules


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
    packed = by_value.pack(module.f)
    monkeypatch.delitem(sys.modules, "carried_utils")
    assert by_value.read(written(packed))[0]() == 2


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
    packed = by_value.pack(space["obj"])
    _, found = by_value.read(written(packed))
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
    packed = by_value.pack(space["obj"])
    found, classes = by_value.read(written(packed), classes=packed.classes)
    assert type(found) is space["Data"]
    assert classes == packed.classes
    assert space["Data"].get is method
    other, _ = by_value.read(written(packed))
    assert type(other) is not space["Data"]
    assert space["Data"].get is method


def test_instances_of_carried_classes_travel_back_by_the_number_of_their_class() -> None:
    space = in_main("""
        import collections
        Batch = collections.namedtuple("Batch", "x y")
        class Bad(ValueError): pass
        obj = lambda: (Batch(1, 2), Bad("torn", 3))
    """)
    packed = by_value.pack(space["obj"])
    make, there = by_value.read(written(packed))
    data = by_value.dumps(make(), there)
    batch, error = by_value.loads(data, packed.classes)
    assert type(batch) is space["Batch"]
    assert batch == (1, 2)
    assert type(error) is space["Bad"]
    assert error.args == ("torn", 3)
    assert len(data) < 250
    with pytest.raises(LookupError, match="class 0"):
        by_value.loads(data)


def test_small_things_of_the_script_go_by_value_without_a_table() -> None:
    space = in_main("""
        class Index:
            def __init__(self, i):
                self.i = i
        def twice(x):
            return 2 * x
    """)
    lent = torch.ones(3).share_memory_()  # type: ignore[no-untyped-call]
    data = by_value.dumps([space["Index"](4), space["twice"], torch.ones(3), lent, np.ones(9999)])
    index, twice, plain, shared, array = by_value.loads(data)
    assert (index.i, twice(4), plain.sum(), shared.sum(), array.sum()) == (4, 8, 3, 3, 9999)
    assert not shared.is_shared()
    shared += 1


def test_a_module_under_a_second_name_is_imported_and_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``collections.abc`` is from Python 3.13 on: no file gives it, importing its package does."""
    (tmp_path / "lender").mkdir()
    (tmp_path / "lender" / "__init__.py").write_text(
        "import sys, lent_under_two_names\nsys.modules['lender.second'] = lent_under_two_names\n"
    )
    (tmp_path / "lent_under_two_names.py").write_text("class Base:\n    __module__ = 'lender.second'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    lent = importlib.import_module("lender.second")
    try:
        assert importable_as(lent.Base, "lender.second", "Base")
    finally:
        for name in ("lender", "lender.second", "lent_under_two_names"):
            sys.modules.pop(name, None)


class Nameless:
    """What its class says of its module is no name, as with the functions of Cython 3.1."""

    __module__: Any = property(lambda self: "nowhere")

    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[Fraction], tuple[int]]:
        if self.value < 0:
            raise ValueError("below zero")
        return Fraction, (self.value,)


class WithNameless:
    """A dataset that holds one, and changes it."""

    def __init__(self, value: int) -> None:
        self.held = Nameless(value)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return int(Fraction(self.held.value if isinstance(self.held, Nameless) else self.held)) + index


def test_a_class_without_a_module_name_is_carried_and_looked_at() -> None:
    with DataLoader(WithNameless(5), 2, num_workers=1) as loader:
        assert torch.cat(list(loader)).tolist() == [5, 6, 7, 8]
    assert torch.cat(list(DataLoader(WithNameless(5), 2))).tolist() == [5, 6, 7, 8]
    with (
        pytest.raises(NotCarriableError, match=r"a Nameless.*below zero"),
        DataLoader(WithNameless(-1), num_workers=1) as bad,
    ):
        iter(bad)
