"""safeloader beside the loaders and executors that others use: which finish after a fault, and how fast each is.

::

    __main__ ── for each peer, workload and round, in turns ──▶ program: one epoch, one peer ──▶ a line of JSON
        └── RESULTS.md                                             └── adapters, stored: how each peer makes batches
                                                                   └── data: the datasets, and the faults in them
"""
