"""A mapping is gone with its last view, wherever an exception (Ctrl-C) arrives while it is made or dies."""

from __future__ import annotations

import gc
import itertools
import mmap
import os
from typing import TYPE_CHECKING, Any

import pytest

from safeloader.runtime import system
from safeloader.runtime.memory import mapping
from tests.instructions import each_instruction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Interrupt(BaseException):
    pass


def mapped() -> int:
    with open("/proc/self/maps") as file:
        return sum("memfd:safeloader-mapping" in line for line in file)


@pytest.fixture
def descriptor() -> Iterator[int]:
    number = system.memory_file("mapping")
    os.ftruncate(number, 1 << 20)
    yield number
    os.close(number)


def interrupted(act: Callable[[], Any], at: int) -> bool:
    """Run it, and raise at the so many-th instruction in it. False if it has fewer."""
    left = at

    def step(_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Interrupt

    try:
        with each_instruction((mapping.__file__,), step):
            act()
    except Interrupt:
        return True
    return False


@pytest.mark.skipif(not system.HAS_MEMFD, reason="counts the mappings of a memory file")
def test_nothing_stays_mapped_wherever_mapping_is_interrupted(descriptor: int) -> None:
    before = mapped()
    for at in itertools.count():
        done = not interrupted(lambda: mapping.Mapping(descriptor, mmap.PAGESIZE, 0), at)
        if mapped() != before:
            gc.collect()  # it takes long in a process with many tests behind it
        assert mapped() == before, f"interrupted at instruction {at}"
        if done:
            break
    assert at > 20  # it has that many


@pytest.mark.skipif(not system.HAS_MEMFD, reason="counts the mappings of a memory file")
def test_a_view_keeps_it_and_the_last_one_takes_it_along(descriptor: int) -> None:
    before = mapped()
    view = mapping.Mapping(descriptor, 4 * mmap.PAGESIZE, 0).view()
    view[0] = 7
    assert mapped() == before + 1
    assert os.pread(descriptor, 1, 0) == b"\7"
    del view
    assert mapped() == before


def test_what_cannot_be_mapped_is_an_error_and_no_more(descriptor: int) -> None:
    with pytest.raises(OSError, match="cannot map 4,096 bytes"):
        mapping.Mapping(descriptor, 4096, 1)  # not a page's beginning
    assert mapping.Mapping(descriptor, 4096, 0).view()[:1] == b"\0"
