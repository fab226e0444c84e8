"""FFCV: real pipelines over real files; nothing of it is mocked."""
