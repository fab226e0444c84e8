"""``DataLoader.state_dict()`` and ``load_state_dict()``.

::

    what the consumer got      core State (``core/consumer``) ----+
    where the sampler stands   ``sampler_state`` -----------------+--> ``checkpoint`` --> a dict of plain values
    the program's generators   ``moments`` -----------------------+        |
                                                                           v
    ``keeper`` holds these for a loader:  state_dict() <-- now      load_state_dict() --> checked, kept
                                                                    the next iter()   --> applied

A state is logical. It speaks of tasks, workers and draws, never of processes, and is plain JSON but for what the user's
own objects put into it. Nothing is kept per batch: the supervisor's books know where the consumer stands.
"""
