"""The runtime acts and decides nothing.

::

    trainer                                                     process (fresh interpreter, never the main script)
    +---------------------------+   channel (socket pair)   +----------------------------------+
    | loop: carries commands    | --- host, task, resume -->| host: one message after another  |
    | out, tells events         |<-- ready, loaded, raised -|   worker: dataset + generators   |
    +---------------------------+                           |   codec: batch -> lease          |
      |  arena: slots, mapped once =====(same memory)====== |   page: "on task 12, sample 7"   |
      |  spec: dataset, serialised once, sealed  ==(cow)==> +----------------------------------+
      |  stacks (pipe) <---- faulthandler, also on a crash
      |  lifeline (pipe) ---- the kernel kills the process when the trainer is gone

A process of a pool serves several loaders: ``pool_main`` is its main loop, with a host, channel, arena and page for
each; to a loader it is a ``pool_handle``, and ``shared_pool`` knows who sits where.

``trainer.loop`` is the only loop. ``start`` is how processes come to be: spawned, or forked from a clean server.
``inline`` hosts workers in the trainer. No lock, queue or thread is shared with a process: a SIGKILL at any instruction
hurts nobody else.
"""
