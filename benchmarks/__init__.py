"""Programs that measure safeloader against torch's DataLoader, and show it at work.

hangs/    every way a loader is known to hang, as a small true program
speed/    throughput, memory, system calls, time to recover
demo/     a training run on real photographs whose workers are killed, stopped and hung
scaling/  what many ranks and samples cost, played against a real store

Each is started from the root of the repository: ``python -m benchmarks.<name>``.
"""
