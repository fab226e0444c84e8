"""The core decides and touches nothing.

::

    events (past facts)                                  commands (imperatives)
    TaskPlanned, BatchRequested,        +-----------+    StartProcess, HostWorker, SendTask,
    TaskLoaded, ProcessExited,   ---->  | Supervisor|    KillProcess, Deliver, Raise, ...
    LeaseReturned, ClockAdvanced        +-----------+    ---->
                                          |  next_deadline()
                       ledger (tasks) ----+---- fleet (workers on processes, the ladder)
                       leases             |     watch (deadlines)  ·  hunt (bad samples)
                                          +---- story (what happened, replayable)

The rules:

1. One door: ``Supervisor.handle(event, now) -> list[Command]``. Time is an argument.
2. Nothing here does I/O, reads a clock, starts a thread, logs, or imports torch. A test holds the imports to that.
3. A message counts only if its process is still on the books; memory is reused only after the exit is confirmed.
4. Each planned task is delivered exactly once, in order, or ends as an error that names it, or is skipped by the
   user's policy and reported.

Read in this order: ``messages``, ``records``, ``supervisor``, ``fleet``, ``watch``, ``hunt``.
"""
