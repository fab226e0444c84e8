"""Tests: ``core`` has no process, ``runtime`` has real ones and real signals, ``api`` compares with torch itself."""
