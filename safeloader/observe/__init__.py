"""What safeloader tells people and programs about itself.

::

    driver: fault, resumed, fell_back, ...
       └──▶ Recorder ──▶ a happening ──▶ loader.report():     a row or a count
                                    ├──▶ SAFELOADER_EVENTS:   a line of JSON
                                    └──▶ logger "safeloader": a line for people

The rule: whatever happens is told once in each of the three, and telling never hurts. A recorder raises
nothing into training, a file that cannot be written is given up after one warning, and a batch costs a few
microseconds: when it was asked for and given (``pulse``), and how long its stages took (``timings``). ``numbers`` is
the table of what other systems are told, ``schema`` that of the events. Nothing here imports torch.
"""

from __future__ import annotations

from safeloader.observe.events import Fault
from safeloader.observe.recorder import Recorder, keep_recorders
from safeloader.observe.report import Report

__all__ = ["Fault", "Recorder", "Report", "keep_recorders"]
