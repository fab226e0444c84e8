"""Leased shared memory, and batches in it."""
