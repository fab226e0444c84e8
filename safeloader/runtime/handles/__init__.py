"""What is open in the trainer, and how each worker gets its own: locks, files, archives, databases, readers.

::

    trainer                                                  worker process
    table: class ─▶ "files:reduce_raw" ─▶ (path, device, inode, descriptor, offset) ─▶ files.open_raw ─▶ its own file

Fork shares open files with their offsets, and locks in whatever state they were. Here each worker opens for itself what
was open, with an offset that begins where the trainer's stood, and locks are new. Each file of this package has both
halves for a few classes; a process imports it when it meets one of these. Neither half imports a library by itself:
what is not imported has no instances. What cannot be opened again is refused, with the reason and what to try.
"""
