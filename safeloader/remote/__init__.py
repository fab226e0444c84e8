"""Processes on other hosts.

::

    trainer's host                                              another host
    driver ==channel, page, arena== stand-in ----- TCP ------ agent ==channel, page, arena== process
                                    (pidfd of its own)                                       (runs child.process_main)

For each process on another host there is a *stand-in*, a small process beside the trainer: it has a real pidfd,
channel, page and slots, so that the driver and the core know nothing of other hosts. An *agent* on the other host
starts the process, with an arena of its own there, and a *relay* (one a process, a thread of the agent) passes on what
both say.
Messages go through untouched; the bytes of a batch are received straight into the slot that the trainer leased.

``launcher`` starts stand-ins and has them placed; ``stand_in`` is such a process, ``trainer_side`` its half here;
``agent`` and ``relay`` are the other side, ``node_store`` what agents of a node share. ``ray_hosts`` (with
``ray_placer`` and ``ray_placing``) and ``plain_hosts`` say where there is room; ``wire``, ``handshake`` and ``tls`` are
between both.
"""
