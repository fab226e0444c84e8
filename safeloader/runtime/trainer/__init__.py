"""The trainer's side: one loop for each loader, which tells its supervisor what happened and does what that says.

::

    iterator ─ next() ─▶ driver ─▶ loop ─ poll ─▶ inbox ──▶ events ──▶ journal ─▶ Supervisor.handle()
                            ▲                       ▲                     │
                         outcome                 channels of          commands
                      (batch or error)        process_table               ▼
                            └──── executor: processes, leases, batches; inline_executor: workers in the trainer;
                                  planner: the sampler; reporting: report, events, log

``journal`` and ``shield`` see to it that an exception between any two instructions loses nothing; ``fork_views`` and
``fork_witness`` that a fork of the trainer keeps its bytes; ``watchdog`` ends what the trainer loads for too long.
The parts are given ``ports``; none knows the driver.
"""
