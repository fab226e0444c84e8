"""A worker: one copy of the dataset, its fetching state and its generators. Child processes and the trainer (at rung 0)
run the same code.

What it loads again to come to its place is compared with what was delivered, as far as there are digests of that.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.runtime.child import dataset_state, joint_beginnings
from safeloader.runtime.child.digest import SIZE
from safeloader.runtime.child.fetch import Ended, Fetcher, Loaded, LoadSpec, Marks, SampleStopped
from safeloader.runtime.child.own_generators import OwnGenerators
from safeloader.runtime.child.sample_rng import Keyed, tell_epoch
from safeloader.runtime.child.worker_place import Diverged, WorkerPlace
from safeloader.runtime.shadow.change_detection import Change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from safeloader.runtime.child.generators import Advanced, Generators, States
    from safeloader.runtime.child.own_globals import OwnGlobals

__all__ = ["Ended", "LoadSpec", "Loaded", "Marks", "SampleStopped", "Worker"]


class Worker(Fetcher):
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
        self.id, self._epoch = place.worker, place.epoch
        self._generators = generators
        self.states: States | None = None  # while another worker is in
        self._rewound = False  # the generators that the dataset holds stand elsewhere than these states say
        self.diverged: Diverged | None = None
        self.compared = 0  # batches that came again as they were
        self.begin: States | None = None  # the generators before the first iterator was made, where they may matter
        self.lost: list[str] = []  # generator objects that could not be put back
        self._seed = torch_private.seed_worker(spec.base_seed, self.id)
        generators.mark()
        super().__init__(spec, torch_private.apply_shared_seed(dataset, place.shared_seed), collate_fn, marks)
        if spec.sample_seed is not None and not spec.iterable:
            self._keyed = Keyed(self._dataset, spec.sample_seed, place.epoch)
        self._pace = dataset_state.SnapshotPace(spec.mark_every)
        self._tells = False
        roots = {"dataset": dataset, "collate_fn": collate_fn, "worker_init_fn": init_fn}
        self._watched: weakref.WeakSet[Change] = weakref.WeakSet()  # as long as somebody asks them
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
            if self._own and spec.iterable and place.epoch_snapshot is None and not place.position:
                self.begin = self.capture()
            self._take_place(place)
            self._tells = dataset_state.is_stateful(self._dataset) or dataset_state.is_stateful(self._iterator)
        except Diverged as diverged:
            self.failure = self.diverged = diverged
        except Exception as error:
            self.failure = error
        if place.snapshot is not None:
            self._restore(place.snapshot)

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
        """Have the generators as they were after an earlier task; None: as seeding left them. It is in."""
        self.lost = self._own.made_since(None if states is None else states.own)
        if states is None:
            torch_private.seed_worker(self._spec.base_seed, self.id)
            self._generators.mark()
        else:
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

    # ------------------------------------------------------------ its place

    def _take_place(self, place: WorkerPlace) -> None:
        if self._spec.iterable and place.epoch_snapshot is not None:
            self._restore(place.epoch_snapshot)
        made = iter if self._spec.iterable else _none
        position, said, states = place.mark or (0, {}, None)
        try:
            self._iterator = dataset_state.load(said, self._dataset, made)
        except Exception as error:
            if not said:
                raise
            raise Diverged("refused", position, f"{type(error).__name__}: {error}") from error
        if states is not None:
            self._restore(states)
        again: Sequence[tuple[Any, ...]] = place.replay
        if self._spec.iterable:
            again = [()] * (place.position - position)
        self._load_again(again, position, place.digests)
        if self._spec.iterable and "dataset" in said and "iterator" not in said and not again:
            self._try_first(position, place.snapshot)
        if self._spec.iterable:
            self._ended = self._ended or place.ended or "ended" in said

    def _try_first(self, position: int, before: States | None) -> None:
        """Some datasets take a state only when the first sample is asked for: see whether this one does.

        The sample is given when it is asked for, and the generators are then what drawing it made of them.
        """
        if before is not None:
            self._restore(before)
        iterator: Any = self._iterator
        try:
            first = [next(iterator)]
        except StopIteration:
            first = []
        except Exception as error:
            raise Diverged("refused", position, f"{type(error).__name__}: {error}") from error
        after, put = self.capture(), self._restore

        def held_back() -> Iterator[Any]:
            put(after)
            yield from first
            yield from iterator

        self._iterator = held_back()
        if before is not None:
            self._restore(before)

    def _load_again(self, tasks: Sequence[tuple[Any, ...]], position: int, digests: bytes) -> None:
        """Load what was delivered long ago, for what that does to dataset, iterator and generators; compare it."""
        known = len(tasks) - len(digests) // SIZE  # so many of the first have no digest
        for number, task in enumerate(tasks):
            self._marks.replayed(number, len(tasks))
            try:
                self._fetch(*task)
            except Ended:
                if digests:
                    raise Diverged("ended", position + number) from None
                break
            except Exception as error:  # it was raised and delivered then
                detail = f"{type(error).__name__}: {error}"
            else:
                detail = ""
            if number >= known:
                start = (number - known) * SIZE
                if self.digest != digests[start : start + SIZE]:
                    raise Diverged("raised" if detail else "differs", position + number, detail)
                self.compared += 1
        self._marks.replayed(0, 0)

    def redo(self, done: Sequence[tuple[Any, ...]], snapshot: States | None) -> None:
        """Do again what was done since this process was copied: tasks (False, indices, skip, digest), beginnings of
        epochs (True, and the arguments of ``resume``), and going back (None, states). The generators that the dataset
        holds are as they were."""
        self.diverged, self.compared, self.lost, self.begin = None, 0, [], None
        position = 0
        try:
            for number, (begins, *again) in enumerate(done):
                self._marks.replayed(number, len(done))
                if begins:
                    self._resume_quietly(*again)
                    position = 0
                elif begins is None:
                    self.go_back(*again)
                elif self.failure is None:
                    self._load_once_more(position, *again)
                    position += 1
        except Diverged as diverged:
            self.failure = self.diverged = diverged
        self._marks.replayed(0, 0)
        if snapshot is not None:
            self._generators.restore(snapshot)

    def _resume_quietly(self, *epoch: Any) -> None:
        try:
            self.resume(*epoch)
        except Exception as error:
            self.failure = error

    def _load_once_more(self, position: int, indices: Any, skip: tuple[int, ...], digest: bytes) -> None:
        how, detail = "differs", ""
        try:
            self._fetch(indices, skip)
        except Ended:
            how = "ended"
        except Exception as error:
            how, detail = "raised", f"{type(error).__name__}: {error}"
        if digest and self.digest != digest:
            raise Diverged(how, position, detail)
        self.compared += bool(digest)

    def watch(self, besides: Callable[[Any], bool] | None = None) -> Change:
        """Looks from now on whether what it has of the user's changes; not at what ``besides`` is true of."""
        change = Change((self._dataset, self._collate, self._iterator), self._globals.values, besides)
        self._watched.add(change)
        return change

    def load(self, indices: Any, skip: tuple[int, ...] = ()) -> Loaded:
        """Load one batch, with an eye on what that changes."""
        for change in self._watched:
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


def _none(dataset: Any) -> None:
    """A map-style dataset has no iterator."""
