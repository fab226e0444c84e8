"""The incidents that the project began from, as programs: what the user saw, and what is seen with safeloader.

::

    __main__ ──▶ watching.run("silent_validation", "without") ──▶ a program of its own, each of its lines with its time
         │                                            "with"
         └──▶ the incident's judge: what happened, noticed after, lost, finished, final metric ──▶ table, RESULTS.md

Each program can be run alone: ``python -m benchmarks.incidents.silent_validation --without``. They train on the
handwritten digits that are shipped inside scikit-learn; incident 4 (`ffcv_ranks`, over `recipe`) on photographs.
"""
