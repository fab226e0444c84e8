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

``trainer`` is the trainer's side, ``child`` a process's, ``pool`` what loaders share, ``memory`` where batches lie;
``by_value`` serialises, ``start`` is how processes come to be, ``shadow`` how they copy themselves, ``isolation`` keeps
workers in the trainer (``trainer.inline``) and the trainer apart.

No lock, queue or thread is shared with a process: a SIGKILL at any instruction
hurts nobody else.
"""
