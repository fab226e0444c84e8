"""A worker process's side.

::

    process_main (imports, joins a loader) ─▶ loop: one message after the other
                                                │ host, task, resume
                                                ▼
                                   worker: dataset, place in its epoch, generators
                                                │ fetch as torch does, digest
                                                ▼
                                   memory.collate ─▶ lease ─▶ "loaded"

``heartbeat`` is the page on which the trainer reads what is in work. ``pool_main`` is the main loop of a process that
serves several loaders: ``fair_queue`` chooses whose turn it is, ``active_worker`` swaps what they share.
``generators``, ``own_generators`` and ``reach`` find, capture and put back the random generators of a worker. Workers
in the trainer are the same class (``trainer.inline``). What is imported here costs every process's start.
"""
