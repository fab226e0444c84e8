"""Slots of shared memory: used again, grown, given back; views outlive everything."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from safeloader.runtime import system
from safeloader.runtime.memory.arena import Arena, SlotTooSmall

MB = 1 << 20
FIRST = 64 * MB  # bytes that a slot is mapped with at first


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena()
    yield made
    made.close()


def _used(arena: Arena) -> int:
    """Bytes of memory that the file really occupies."""
    return os.fstat(arena.descriptor).st_blocks * 512


def test_a_slot_is_mapped_once_and_used_again(arena: Arena) -> None:
    first = arena.map(0, 10)
    first.view()[:3] = b"abc"
    again = arena.map(0, MB)
    assert again is first
    assert bytes(again.view()[:3]) == b"abc"
    assert arena.map(1, 10) is not first


def test_only_what_is_written_takes_memory(arena: Arena) -> None:
    for slot in range(20):
        arena.map(slot, MB).view()[: MB // 4] = bytes(MB // 4)
    assert _used(arena) <= 20 * MB // 4 + MB


def test_both_sides_see_the_same_bytes(arena: Arena) -> None:
    other = Arena(os.dup(arena.descriptor))
    arena.map(2, 100).view()[:5] = b"hello"
    assert bytes(other.map(2, 100).view()[:5]) == b"hello"
    other.map(2, 100).view()[:1] = b"j"
    assert bytes(arena.map(2, 100).view()[:5]) == b"jello"
    other.close()


def test_a_slot_grows_where_it_is_and_old_views_stay_good(arena: Arena) -> None:
    small = arena.map(0, 10)
    old = np.frombuffer(small.view(), np.uint8, 4)
    small.view()[:4] = b"abcd"
    large = arena.map(0, FIRST + 1)
    assert large is not small
    assert large.length > FIRST
    assert bytes(large.view()[:4]) == b"abcd"
    large.view()[:1] = b"z"
    assert old[0] == ord("z"), "one memory, mapped twice"
    large.view()[FIRST : FIRST + 1] = b"!"
    assert arena.map(0, 10) is large, "it does not shrink"


def test_neighbouring_slots_do_not_overlap(arena: Arena) -> None:
    arena.map(0, FIRST).view()[FIRST - 1 : FIRST] = b"x"
    arena.map(0, 2 * FIRST).view()[2 * FIRST - 1 : 2 * FIRST] = b"y"
    assert bytes(arena.map(1, 10).view()[:10]) == bytes(10)


def test_freed_memory_is_given_back_to_the_system(arena: Arena) -> None:
    arena.map(0, 8 * MB).view()[: 8 * MB] = b"\1" * (8 * MB)
    before = _used(arena)
    arena.free(0)
    assert _used(arena) <= before - 8 * MB
    assert bytes(arena.map(0, 8 * MB).view()[:100]) == bytes(100)
    arena.free(7)  # was never mapped


def test_views_outlive_the_arena() -> None:
    arena = Arena()
    mapping = arena.map(0, 100)
    mapping.view()[:4] = b"kept"
    kept = np.frombuffer(mapping.view(), np.uint8, 4)
    del mapping
    arena.close()
    arena.close()
    assert kept.tobytes() == b"kept"
    kept[0] = 0


def test_a_mapping_goes_when_its_last_view_dies() -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as file:
            return sum("memfd:safeloader-arena" in line for line in file)

    before = mapped()
    arena = Arena()
    kept = np.frombuffer(arena.map(0, 100).view(), np.uint8, 4)
    arena.forget(0)
    assert mapped() == before + 1
    del kept
    assert mapped() == before
    arena.close()


def test_a_private_slot_keeps_its_bytes_and_its_address_but_no_company(arena: Arena) -> None:
    other = Arena(os.dup(arena.descriptor))
    mapping = arena.map(0, 100)
    mapping.view()[:6] = b"before"
    view = np.frombuffer(mapping.view(), np.uint8, 6)
    mapping.make_private(6)
    other.map(0, 100).view()[:6] = b"after!"
    assert view.tobytes() == b"before"
    view[0] = ord("B")
    assert bytes(other.map(0, 100).view()[:6]) == b"after!"
    other.close()


@pytest.mark.parametrize("wrong", ["too large a batch", "too many batches"])
def test_what_does_not_fit_is_an_error_that_says_how_much_fits(arena: Arena, wrong: str) -> None:
    slot, nbytes = (0, arena.window + 1) if wrong == "too large a batch" else (1 << 40, 10)
    with pytest.raises(SlotTooSmall, match="does not fit into the shared memory") as caught:
        arena.map(slot, nbytes)
    assert f"{arena.window:,} bytes a batch" in str(caught.value)


def test_without_memfd_an_unlinked_file_does(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(system, "HAS_MEMFD", False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    arena = Arena()
    other = Arena(os.dup(arena.descriptor))
    arena.map(500, 3 * MB).view()[:2] = b"ok"
    assert bytes(other.map(500, MB).view()[:2]) == b"ok"
    assert os.listdir(str(tmp_path)) == [], "no name is left"
    assert _used(arena) < 2 * MB
    other.close()
    arena.close()
