"""What keeps a worker that the trainer hosts apart from the trainer: see ``ambient``.

``state``: one ambient state. ``torch_states``, ``python_states``, ``system_states``: the table of all. ``ambient``: the
trainer's states are put aside, a worker's own put in, and back. ``guards``: calls that could not be undone.
``own_states``: the same for workers that share a process, among themselves.
"""

from safeloader.runtime.isolation.ambient import Ambient, View
from safeloader.runtime.isolation.guards import Irreversible
from safeloader.runtime.isolation.own_states import OwnStates

__all__ = ["Ambient", "Irreversible", "OwnStates", "View"]
