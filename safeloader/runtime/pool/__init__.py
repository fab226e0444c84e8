"""Processes that several loaders share, from the trainer's side."""
