"""A worker: one copy of the dataset, its fetching state and its generators. Child processes and the trainer (at rung 0)
run the same code. How it comes to its place is in `catches_up`.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.runtime.child import dataset_state, joint_beginnings
from safeloader.runtime.child.catches_up import CatchesUp
from safeloader.runtime.child.fetch import Ended, Loaded, LoadSpec, Marks, SampleStopped
from safeloader.runtime.child.generator_objects import is_generator
from safeloader.runtime.child.own_generators import OwnGenerators
from safeloader.runtime.child.sample_rng import Keyed, tell_epoch
from safeloader.runtime.child.worker_place import Diverged, WorkerPlace
from safeloader.runtime.isolation import readings
from safeloader.runtime.shadow.change_detection import Change

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safeloader.runtime.child.generators import Advanced, Generators, States
    from safeloader.runtime.child.own_globals import OwnGlobals

__all__ = ["Ended", "LoadSpec", "Loaded", "Marks", "SampleStopped", "Worker"]


class Worker(CatchesUp):
    """One worker. Its generators are the process's own while it works: see ``enter``.

    Args:
        spec: what all workers share.
        dataset: this worker's own copy.
        collate_fn: makes a batch of samples.
        init_fn: called once with the worker's id.
        place: where it stands.
        generators: the process's generators.
        marks: where progress is marked.
        in_stream: the generator objects among dataset and functions, as they were read.
        own_globals: its own globals.
    """

    def __init__(
        self,
        spec: LoadSpec,
        dataset: Any,
        collate_fn: Callable[[Any], Any],
        init_fn: Callable[[int], None] | None,
        place: WorkerPlace,
        generators: Generators,
        marks: Marks,
        in_stream: Sequence[Any] = (),
        *,
        own_globals: OwnGlobals,
    ) -> None:
        place = place.to_begin_with
        self.id, self._epoch = place.worker, place.epoch
        self._generators = generators
        self.states: States | None = None  # while another worker is in
        self._rewound = False  # the generators that the dataset holds stand elsewhere than these states say
        self.diverged: Diverged | None = None
        self.compared = 0  # batches that came again as they were
        self.begin: States | None = None  # the generators before the first iterator was made, where they may matter
        self.lost: list[str] = []  # generator objects that could not be put back
        self.change: Change | None = None  # what is seen of that, until it is seen; of map-style datasets
        self._born: States | None = None  # the generators before the first task
        self._seed = torch_private.seed_worker(spec.base_seed, self.id)
        generators.mark()
        super().__init__(spec, torch_private.apply_shared_seed(dataset, place.shared_seed), collate_fn, marks)
        if spec.sample_seed is not None and not spec.iterable:
            self._keyed = Keyed(self._dataset, spec.sample_seed, place.epoch)
        self._pace = dataset_state.SnapshotPace(spec.mark_every)
        self._tells = False
        roots = {"dataset": dataset, "collate_fn": collate_fn, "worker_init_fn": init_fn}
        self._watched: list[weakref.ref[Change]] = []  # as long as somebody asks them
        self._own = OwnGenerators(roots.items(), in_stream)
        joint_beginnings.attend()
        self._globals = own_globals
        self.enter()
        try:
            if init_fn is not None:
                init_fn(self.id)
            if place.told_epoch is not None:
                tell_epoch(self._dataset, place.told_epoch)
            self._own.settle()
            self._born = self.capture()
            if self._own and spec.iterable and place.epoch_snapshot is None and not place.position:
                self.begin = self._born
            self._take_place(place)
            self._tells = dataset_state.is_stateful(self._dataset) or dataset_state.is_stateful(self._iterator)
            if place.as_new is not None:
                self.change = None if spec.iterable else self.watch(is_generator)
                self._redo_in_new_copy(place)
        except Diverged as diverged:
            self.failure = self.diverged = diverged
        except Exception as error:
            self.failure = error
        if place.snapshot is not None:
            self._restore(place.snapshot)
        if self.change is None and not spec.iterable:
            self.change = self.watch(is_generator)

    # ------------------------------------------------------------ generators

    def enter(self) -> None:
        """Make this process's ``get_worker_info()`` and generators this worker's."""
        torch_private.set_worker_info(self.id, self._spec.num_workers, self._seed, self._dataset)
        joint_beginnings.enter(self._spec.token, self._epoch)
        self._globals.enter()
        self._own.enter(None if self.states is None else self.states.own)
        if self.states is not None:
            if self._rewound:
                self._own.restore(self.states.own)
                self._rewound = False
            self._generators.restore(self.states)
            self.states = None

    def rewind(self, states: States) -> None:
        """What was broken off is begun again from here, with the next ``enter``."""
        self.states, self._rewound = states, True

    def go_back(self, states: States | None) -> None:
        """Have the generators as they were after an earlier task; None: before the first one. It is in."""
        states = states or self._born
        if states is None:  # it could not be set up
            return
        self.lost = self._own.made_since(states.own)
        self.lost += self._own.restore(states.own)
        self._generators.restore(states)

    def leave(self) -> None:
        """Keep the generators for the next ``enter``."""
        self.states = self.capture()
        self._own.leave()
        joint_beginnings.leave()
        self._globals.leave()

    def capture(self) -> States:
        """The generators now: the process's, and those that the dataset holds."""
        return self._generators.capture()._replace(own=self._own.capture(self._last_sample))

    def look_again(self) -> None:
        """Find generators that the last task has made, where nobody asks whether they moved."""
        self._own.look_again()

    def moved(self) -> States | Advanced | None:
        """The generators, if any moved since the last look; else None."""
        own_moved = self._own.moved()
        states = None if self._keyed is not None else self._generators.moved()  # else samples set the process's
        if not own_moved and (states is None or not self._own):
            return states
        return (states or self._generators.now())._replace(own=self._own.capture(self._last_sample))

    def first_states(self) -> States | Advanced | None:
        """What the next process has to know of the generators now that the worker is set up; None: nothing."""
        states = self.moved()
        return self.capture() if self._own else states

    def _restore(self, states: States) -> None:
        self.lost = self._own.restore(states.own, self._warm_up)
        self._generators.restore(states)

    def _warm_up(self, sample: Any) -> None:
        """Load a sample that was loaded before, for what the dataset makes when it loads its first."""
        if self.failure is None and not self._spec.iterable:
            try:
                if hasattr(self._dataset, "__getitems__"):
                    self._dataset.__getitems__([sample])
                else:
                    self._dataset[sample]
            except Exception:
                pass

    # ------------------------------------------------------------ tasks and epochs

    def watch(
        self, besides: Callable[[Any], bool] | None = None, within: Callable[[Callable[[], Any]], Any] | None = None
    ) -> Change:
        """Looks from now on whether what it has of the user's changes; not at what ``besides`` is true of.

        Args:
            within: calls a function in its context variables, for those who look from outside of them.
        """
        things = self._dataset, self._collate, self._iterator
        lasting = readings.lasting if within is None else functools.partial(within, readings.lasting)
        change = Change(things, self._globals.values, besides, (lasting, readings.late))
        self._watched = [*(watched for watched in self._watched if watched() is not None), weakref.ref(change)]
        return change

    def looked(self, trusting: bool) -> bool | None:
        """Count a task. True if after it what the worker has of the user's is seen to have changed, for the first time;
        False if it was looked at and is as new; else None.

        Args:
            trusting: what hides its changes is taken for unchanged.
        """
        if self.change is None:
            return None
        if self.change.seen():
            self.change = None
            return True
        return False if self.change.looked and (trusting or not self.change.hidden) else None

    def load(self, indices: Any, skip: tuple[int, ...] = ()) -> Loaded:
        """Load one batch, with an eye on what that changes."""
        for watched in self._watched:
            change = watched()
            if change is not None:
                change.begin(indices)
        return super().load(indices, skip)

    def resume(self, shared_seed: int | None, epoch: int = 0, told_epoch: int | None = None) -> None:
        """Begin a new epoch, as torch does for persistent workers."""
        self.begin, self._epoch = None, epoch
        joint_beginnings.enter(self._spec.token, epoch)
        if self.failure is not None:
            return
        self._dataset = torch_private.apply_shared_seed(self._dataset, shared_seed)
        if self._keyed is not None:
            self._keyed.epoch = epoch
        if told_epoch is not None:
            tell_epoch(self._dataset, told_epoch)
        if self._spec.iterable:
            self._iterator = iter(self._dataset)
            self._ended = False

    def asked(self, always: bool = False) -> bool:
        """Whether the dataset can tell its state, and it is time to ask."""
        return self._tells and (always or self._pace.due())

    def said(self, always: bool = False) -> dict[str, Any] | None:
        """What the dataset says of its state, if it can, and if it is time to ask; ``noted`` is to follow."""
        if not self.asked(always):
            return None
        said = dataset_state.told(self._dataset, self._iterator)
        if said is not None and self._ended:
            said["ended"] = True  # with a short batch, which is not its last word
        return said

    def noted(self) -> None:
        """What was said is on its way: that is what it cost."""
        self._pace.done()
