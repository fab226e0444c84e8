"""Faults made on purpose, with real processes."""
