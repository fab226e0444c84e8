"""How many batches a second come from a process on another host: ``python -m benchmarks.hosts``."""
