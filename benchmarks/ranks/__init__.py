"""Several ranks, with and without faults, torch against safeloader.

::

    torchrun ── rank 0 ── 2 workers          ``program``: one epoch of DistributedDataParallel steps on images
             └─ rank 1 ── 2 workers  <── SIGKILL every 50 batches
    ``__main__``: the four runs, and the table
"""
