"""Memory of batches is used again only when nothing refers to it."""

from __future__ import annotations

import numpy as np
import torch

from safeloader.ffcv.leases import Pool, Slots


def test_memory_in_use_is_not_handed_out_and_free_memory_is() -> None:
    pool = Pool((4, 3), np.dtype("f4"), spare=2)
    tensor = torch.from_numpy(pool.take()[:2])
    view = tensor[0]  # holds the storage, not the tensor
    address = view.data_ptr()
    del tensor
    assert pool.take().__array_interface__["data"][0] != address
    del view
    assert pool.take().__array_interface__["data"][0] == address


def test_a_pool_shrinks_to_its_spare() -> None:
    pool = Pool((2,), np.dtype("i8"), spare=3)
    kept = [pool.take()[:] for _ in range(20)]
    assert len(pool) == 20
    kept.clear()
    pool.take()
    assert len(pool) == 3


def test_a_slot_lets_go_of_its_memory_when_the_batch_is_made() -> None:
    slots = Slots(Pool((2,), np.dtype("i8"), spare=1), 2)
    slots.open(0)
    batch = slots[0][:1]
    slots.close(0)
    slots.open(1)
    assert not np.shares_memory(batch, slots[1])
    slots.close(1)
    del batch
