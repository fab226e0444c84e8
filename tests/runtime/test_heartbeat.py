"""What a process writes on its page, the trainer reads."""

from __future__ import annotations

from time import monotonic

import pytest

from safeloader.runtime.child.heartbeat import Heartbeat, HeartbeatReading
from safeloader.runtime.memory.arena import Arena


def _pages() -> tuple[Heartbeat, Heartbeat]:
    """The same page, mapped twice: the process's and the trainer's view."""
    arena = Arena()
    pages = Heartbeat(arena.page(3)), Heartbeat(arena.page(3))
    arena.close()
    return pages


def test_a_new_page_says_that_nothing_is_worked_on() -> None:
    _, reader = _pages()
    assert (reader.read().task, reader.read().setup) == (None, None)


@pytest.mark.parametrize("task", [0, 1, 1 << 40])
def test_a_task_is_seen_with_its_samples_and_times(task: int) -> None:
    writer, reader = _pages()
    start = monotonic()
    taken = writer.take_task(task)
    assert start <= taken <= monotonic()
    assert reader.read() == HeartbeatReading(task, None, None, taken, taken)
    writer.sample(0)
    seen = reader.read()
    assert (seen.task, seen.sample, seen.taken_at) == (task, 0, taken)
    writer.sample(5)
    later = reader.read()
    assert later.sample == 5
    assert taken <= seen.progressed_at <= later.progressed_at
    writer.collate()
    assert (reader.read().task, reader.read().sample) == (task, None)
    assert reader.read().progressed_at >= later.progressed_at


@pytest.mark.parametrize("worker", [0, 1, 63])
def test_setting_a_worker_up_is_seen_and_is_no_task(worker: int) -> None:
    writer, reader = _pages()
    taken = writer.take_setup(worker)
    assert reader.read() == HeartbeatReading(None, worker, None, taken, taken)


def test_rest_ends_the_work_and_the_next_begins_without_a_sample() -> None:
    writer, reader = _pages()
    writer.take_task(4)
    writer.sample(2)
    rested = writer.rest()
    assert (reader.read().task, reader.read().setup, reader.read().progressed_at) == (None, None, rested)
    writer.take_task(5)
    assert reader.read().sample is None


def test_pages_of_several_processes_do_not_touch_one_another() -> None:
    arena = Arena()
    pages = [Heartbeat(arena.page(number)) for number in range(4)]
    for number, page in enumerate(pages):
        page.take_task(number * 10)
    assert [page.read().task for page in pages] == [0, 10, 20, 30]
    assert bytes(arena.map(0, 4096).view()[:4096]) == bytes(4096), "the first slot is not theirs"
    del pages, page
    arena.close()
