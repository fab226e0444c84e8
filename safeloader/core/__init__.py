"""The core decides and touches nothing.

::

    events (past facts)                                    commands (imperatives)
    TaskPlanned, BatchRequested,        +------------+     StartProcess, HostWorker, SendTask,
    TaskLoaded, ProcessExited,   ---->  | Supervisor |     KillProcess, Deliver, ReportFault, ...
    LeaseReturned, ClockAdvanced        +------------+     ---->
                                              |    next_deadline()
        books       what the parts share                 answers     what the processes say
        schedule    which tasks are planned, done, due   consumer    what the consumer got: the state
        shadows     which copies of processes there are  fleet       how many processes, who hosts whom
        restoring   how a worker comes to its place      recovery    what follows when one is gone
        deadlines   how long a wait may take             story       what happened, replayable
        quarantine  which task or sample did it          state       where a loader stands
        dispatch    what goes out to the processes       rewinding   batches that are wanted again

    besides: placement (who sits where in a pool's processes), policy, leases, bisection, records, view (for observers)

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

A part knows the books and the parts before it in this order, never one after it; a test holds that, too:
``messages``, ``records``, ``state``, ``books``, ``shadows``, ``restoring``, ``schedule``, ``deadlines``,
``quarantine``, ``dispatch``, ``answers``, ``consumer``, ``rewinding``, ``fleet``, ``recovery``, ``view``,
``supervisor``. What a part finds for one after it, it marks in the books, or returns to the supervisor. Only the end of
the loader is called for from below: the parts that may demand it are given ``give_up``.
"""
