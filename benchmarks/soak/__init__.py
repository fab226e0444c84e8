"""The soak: loaders of all kinds beside each other, for as long as you like, under faults of all kinds.

::

    python -m benchmarks.soak (controller)                      benchmarks.soak.trainer (one process a rank)
        starts the trainers, draws faults,     SIGKILL,         a thread a kind of loader (kinds.py)
        strikes from outside (strikes.py)      SIGSTOP ... -->  a thread that forks, one that interrupts
        stops and continues whole trainers                      compares every epoch with torch's digest
        judges what is left at the end        <-- JSON lines    counts what it holds, before and after

Every epoch that any loader gives is compared with what torch's own ``DataLoader`` gave, undisturbed, for the same
seeds. At the end, a trainer holds what it held at the start: descriptors, processes, threads, mappings, memory.
"""
