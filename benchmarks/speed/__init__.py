"""How fast, how large and how quick to recover: torch's DataLoader and safeloader side by side.

Every number comes from pairs: the same dataset, the same arguments, the spawn start method, both loaders in
the same run, interleaved (A B, B A, ...), so that whatever else the machine does falls on both. A result is
the median of the ratios of the pairs, with their spread; absolute figures are side information about one
machine.

throughput  whole epochs of four workloads, consumer idle or reading every byte; also ``num_workers=0``
start       seconds from the first ``iter()`` to the first batch, 2, 4 and 8 workers
syscalls    system calls of the trainer per batch in mid-epoch, counted by strace from outside
memory      physical memory (PSS) of trainer and workers with a 300 MB array in the dataset
pool        train and val on one pool of 4 processes: physical memory, and the first batch after a switch
guard       a training step with and without safeloader.training.FiniteGuard
observing   processor time of the trainer a batch with nothing observed, as always, with every sink
faults      a worker gets SIGKILL or SIGSTOP: seconds until it is noticed, and the longest wait for a batch

``python -m benchmarks.speed`` measures all, prints the tables and writes JSON and Markdown. Each measurement
is a child program with a time limit: a loader that hangs costs its row, not the run.
"""
