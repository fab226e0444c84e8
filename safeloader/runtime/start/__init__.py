"""How an operating-system process comes to be.

::

    trainer                                                    process
    Launcher("spawn").begin(...)  ──── exec ──────────────────────▶ interpreter ─▶ imports ─▶ ready ─▶ joins a loader
                                     (more of them than cores: they take turns importing, ``import_slots``)

    Launcher("forkserver").begin(...) ── request ──▶ fork server ── fork ──▶ process ─▶ ready ─▶ joins a loader
         ForkServer, one a trainer              exec'ed once, imports once,
         ◀── its pid, a pidfd, its exit ─────── checked before each fork; else "no, because ...": spawned instead

    Templates(launcher, payload).begin(...) ── request ──▶ template ── fork ──▶ process, which has the dataset already
         for a large dataset, one an iterator   forked by the server, reads once; else "no, because ...": forked

Either way the main script is never imported, and a process starts for no loader in particular: what it is to serve
comes through its channel (``Process.join``). So one can be started before the loader iterates (``prestarted``).

``launcher`` chooses, ``spawned`` and ``forked`` are the two kinds of process, ``client`` and ``server`` the two sides
of the fork server, ``template`` the trainer's side of a template, ``forking`` what a server and a template have in
common, ``fork_safety`` what may be forked, ``preload`` what is worth importing beforehand.
"""
