"""The helpers for a training loop, with real files, processes and signals."""
