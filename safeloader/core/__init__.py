"""The core decides and touches nothing.

::

    events (past facts)                                    commands (imperatives)
    TaskPlanned, BatchRequested,        +------------+     StartProcess, HostWorker, SendTask,
    TaskLoaded, ProcessExited,   ---->  | Supervisor |     KillProcess, Deliver, ReportFault, ...
    LeaseReturned, ClockAdvanced        +------------+     ---->
                                              |    next_deadline()
        ledger    which tasks are planned, finished, due   fleet     how many processes, who hosts whom
        leases    who holds which piece of memory          traffic   what is in flight to them
        progress  what the consumer got: the state         watch     how long that may take
        story     what happened, replayable                state     where a loader stands
        seats     who sits where in a pool's processes     recovery  what follows when one is gone
        shadows   which copies of processes there are      blame     which task or sample did it (hunt)

The rules:

1. One door: ``Supervisor.handle(event, now) -> list[Command]``. Time is an argument.
2. Nothing here does I/O, reads a clock, starts a thread, logs, or imports torch. A test holds the imports to that.
3. A message counts only if its process is on the books and it answers the oldest message in flight; memory is used
   again only after the exit is confirmed.
4. Each planned task is delivered exactly once, in order, or ends as an error that names it, or is skipped by the
   user's policy and reported. What a worker's generators go through is the same whatever happens to its processes.
5. What hurt a process is never tried in the trainer.
6. Every wait has an end: what is in flight has a deadline, and what fails in a row leads down the ladder, or to an
   error.

Read in this order: ``messages``, ``records``, ``state``, ``supervisor``, ``ledger``, ``fleet``, ``traffic``, ``watch``,
``shadows``, ``recovery``, ``blame``, ``progress``.
"""
