"""Leased shared memory, and batches in it.

::

    process:  samples ─ collate ─▶ slot_writer ─▶ slot of the arena ─┐   (mapped once on each side)
    trainer:  batch ◀─ codec.decode: views into the slot ────────────┘   the lease returns when the last view dies

``mapping`` is a piece of a file as memory, unmapped when the last view dies; ``kept_memory`` stands in for the arena
where the trainer loads itself. ``pinned`` is the arena whose slots devices read by themselves, and ``cuda_driver`` what
that asks of CUDA.
"""
