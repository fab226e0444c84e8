"""Processes that several loaders share, from the trainer's side.

::

    loader's loop ─▶ pool_handle ─┐
                                  ├─▶ pool_process ─▶ one process, a channel for each loader
    loader's loop ─▶ pool_handle ─┘        ▲
                                    shared_pool: which processes there are, who sits where; standbys: one more, ready

To a loader a ``pool_handle`` is what a ``trainer.process`` is: started, listened to, ended.
"""
