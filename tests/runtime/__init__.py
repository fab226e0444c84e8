"""The fault matrix: real processes, real signals. Each test is a row: what happens, and that the bytes stay torch's."""
