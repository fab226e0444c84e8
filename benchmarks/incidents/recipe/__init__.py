"""A reference recipe for FFCV on several ranks, and beside each of its choices the form that broke a run.

::

    data: photographs ──▶ train.beton, val.beton
                                │ safeloader.ffcv.Loader(resize=ProgressiveResize): one loader for all sizes
                                ▼
    plan: sizes, rate ──▶ train.Recipe ──▶ each step: guard, optimizer, OneCycle, averaging.Average, on all ranks
                                │          each epoch: buffers averaged, validation on all ranks, checkpoint
    broken: one subclass per mistake, which overrides the one method that holds the choice
                                ▼
                           Story: what it did to the metric, and which check names it

``torchrun --nproc-per-node 2 -m benchmarks.incidents.recipe FOLDER`` trains; killed and started again, it goes on.
"""
