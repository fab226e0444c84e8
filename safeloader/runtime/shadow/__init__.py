"""A process keeps a sleeping copy of itself, the shadow, which goes on in its place when it is lost.

::

    process ──fork──▶ shadow: has its own open files, asks for nothing, is killed first when memory is short
       │                 │ the trainer: "be process 7"
       x lost            └──fork──▶ successor: redoes what was done since, and goes on
                         (the shadow stays: it tells how its successor ends, and can make another)

``keeper`` decides in the process when a shadow is taken, ``fit`` whether it can be, ``change`` whether a map-style
dataset changes itself; ``sleeper`` is the shadow. ``trainer`` is the trainer's side of them.
A process imports this only if its loader wants shadows.
"""
