"""Torch's own DataLoader as the measure.

::

    cases, values ──▶ reference: a program of its own, torch's loader ──▶ traces (plain tuples, one file)
          └─────────▶ the test: safeloader.DataLoader ──────────────────▶ traces ──▶ equal?

Both sides run the same code (`cases.trace`, `values.deliver`) with another class of loader. A trace holds everything
that can be seen: each batch taken apart (`describe`), warnings, errors, draws of the consumer between the batches, and
the states of the main process's generators.
"""
