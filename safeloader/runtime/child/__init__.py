"""A worker process's side."""
