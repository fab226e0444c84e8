"""Workers hosted by the trainer itself, at the lowest rung: same code, same bytes, no process.

Nothing of the trainer's reaches a sample, and nothing of a worker's stays in the trainer (``isolation``): generators,
worker info and all ambient states are put back after every batch. What could not be put back is refused, and the worker
goes to a process. A watchdog thread interrupts a batch past its deadline where Python can be interrupted: a signal
whose handler raises wakes even a sleep or a lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from safeloader import torch_private
from safeloader.runtime import by_value
from safeloader.runtime.by_value.script_settings import repeat_settings
from safeloader.runtime.child.generators import Generators, States
from safeloader.runtime.child.own_globals import OwnGlobals
from safeloader.runtime.child.unsendable import unsendable
from safeloader.runtime.child.worker import Loaded, LoadSpec, Marks, Worker
from safeloader.runtime.isolation import Ambient, Irreversible, View
from safeloader.runtime.memory import codec
from safeloader.runtime.memory.collate import collating_into
from safeloader.runtime.memory.kept_memory import KeptMemory, PrivateMemory
from safeloader.runtime.trainer.indices import own_copy
from safeloader.runtime.trainer.inline_turn import PATIENCE, in_turn
from safeloader.runtime.trainer.watchdog import watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.child.worker_place import WorkerPlace
    from safeloader.runtime.payload import Payload

__all__ = ["InlineBatch", "InlineHost", "Irreversible", "NotEncodable"]

T = TypeVar("T")


_CHANGE = "its dataset: an exception broke off a batch, which is loaded again and may come out differently"
_BESIDE = (
    "random numbers, modes and the folder, which may mix with those of another thread's loader: its sample has been "
    f"loaded here for more than {PATIENCE:g} s"
)


class InlineBatch:
    """A batch that never left the trainer, or the error in its place, until the consumer has got it.

    What the supervisor was told is kept for a while (see ``journal``). That must not keep the batch.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class NotEncodable(Exception):
    """A batch was loaded, but a process could not have sent it. The error that tells is ``error``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class InlineHost:
    """Hosts workers in this process.

    Args:
        load: plain values for this loader.
        spec: where the workers' copies come from.
        tell: is told what a worker did, or would have done, that cannot be undone (see ``Ambient``).

    Attributes:
        looked: of the batch that was loaded last, whether its worker's dataset had changed (see ``Worker.looked``).
    """

    def __init__(self, load: LoadSpec, spec: Payload, tell: Callable[[int, str, bool], None]) -> None:
        self._load = load
        self._spec = spec
        self._tell = tell
        self._token = spec.config.token
        self._generators: Generators | None = None
        self._places: dict[int, WorkerPlace] = {}
        self._workers: dict[int, Worker] = {}
        self._closing: dict[int, Callable[[], None]] = {}  # closes what was opened for a worker
        self._trainers: tuple[States, Any] | None = None  # generators and worker info, while a worker is in
        self._before: tuple[object, States | None] = None, None  # the batch begun last, its worker's generators before
        self.looked: bool | None = None
        self._views: dict[int, View] = {}
        self._kept = KeptMemory()
        self._ambient = Ambient(tell)

    def host(self, place: WorkerPlace, lenient: bool) -> Worker | None:
        """Take a worker in. It is set up when it is first needed; at once, and returned, where it has an iterator
        (which may draw random numbers) or is to be compared with what was delivered.

        Args:
            place: where it stands.
            lenient: what it does that could not be undone here is left out, not refused.
        """
        self._let_go(place.worker)  # of one that an interrupt kept from being hosted
        self._places[place.worker] = place
        self._views[place.worker] = self._ambient.view(place.worker, lenient)
        if not (self._load.iterable or place.digests or place.mark or place.redo):
            return None
        return self._as_worker(place.worker, lambda hosted: hosted)

    def drop(self, worker: int) -> None:
        self._places.pop(worker, None)
        self._let_go(worker)
        self._views.pop(worker, None)

    def _let_go(self, worker: int) -> None:
        self._workers.pop(worker, None)
        if worker in self._closing:
            self._closing.pop(worker)()

    def resume(
        self, worker: int, shared_seed: int | None, epoch: int, told_epoch: int | None, key: object = None
    ) -> bytes | None:
        """Begin a new epoch; under the same ``key`` again, if an interrupt has broken that off.

        Returns:
            What the dataset says of itself.
        """
        self._as_it_began(worker, key)

        def begin(hosted: Worker) -> None:
            try:
                hosted.resume(shared_seed, epoch, told_epoch)
            except Exception as error:
                hosted.failure = error

        self._as_worker(worker, begin)
        return self.said(worker, always=True)

    def rewind(self, worker: int, states: States | None) -> list[str]:
        """Put a worker's generators where they stood after an earlier batch; None: where seeding left them. Returns
        those that could not be put back."""
        self._as_worker(worker, lambda hosted: hosted.go_back(states))
        return self._workers[worker].lost

    def said(self, worker: int, always: bool = False) -> bytes | None:
        """What a worker's dataset says of itself after its last batch, if that is to be told."""
        there = self._workers.get(worker)
        if there is None or not there.asked(always):
            return None

        def ask(hosted: Worker) -> bytes | None:
            said = hosted.said(always=True)
            data = None if said is None else by_value.dumps(said, self._spec.classes)
            hosted.noted()
            return data

        return self._as_worker(worker, ask)

    def load(self, worker: int, indices: Any, skip: tuple[int, ...], timeout: float, key: object = None) -> Loaded:
        """Load one batch now; under the same ``key`` again, if an interrupt has broken that off.

        Raises:
            Ended: the worker has nothing left.
            Interrupted: it took longer than ``timeout`` seconds and could be interrupted.
            NotEncodable: a process could not have sent this batch.
            Irreversible: something was about to be done that cannot be undone here.
            Exception: whatever the dataset raised.
        """
        memory = PrivateMemory(self._kept)
        if self._as_it_began(worker, key) and self._load.iterable and worker in self._workers:
            self._refuse_iterator(worker)

        def work(hosted: Worker) -> Loaded:
            loaded = hosted.load(own_copy(indices), skip)
            if loaded.empty:
                return loaded
            try:
                encoded = codec.Encoder(memory, self._token, self._spec.classes).encode(loaded.batch)
            except Exception as error:
                raise NotEncodable(unsendable(error, loaded.batch, indices, self._spec.classes)) from error
            return loaded._replace(batch=encoded)

        def act(hosted: Worker) -> Loaded:
            self.looked = None
            loaded = watched(timeout, lambda: work(hosted))
            self.looked = hosted.looked(trusting=True)  # while its own globals are there
            return loaded

        loaded = self._as_worker(worker, act)
        if loaded.empty:
            return loaded
        stream, pieces = loaded.batch
        return loaded._replace(batch=codec.decode(stream, pieces, memory))

    def _as_it_began(self, worker: int, key: object) -> bool:
        """Let a worker begin where it stood when this was begun first. True if it was begun before."""
        hosted = self._workers.get(worker)
        if key is None or self._before[0] != key:
            self._before = key, None if hosted is None else hosted.states
            return False
        if self._before[1] is None:
            self._let_go(worker)  # it is set up anew
        elif hosted is not None:
            hosted.rewind(self._before[1])
            self._tell_of_change(worker)
        return True

    def _tell_of_change(self, worker: int) -> None:
        """Generators are put back; what else a dataset changes in itself while it loads is not."""
        if self._load.iterable or _CHANGE in self._views[worker].told:
            return
        if self._as_worker(worker, lambda hosted: hosted.change is None or hosted.change.there()):
            self._tell_once(worker, _CHANGE)

    def _refuse_iterator(self, worker: int) -> None:
        """An exception within an iterator ends it, or it has gone on by an unknown number of samples."""
        what = "an exception that broke off the iterator of the dataset (Ctrl-C, a signal, a time-out)"
        if not self._views[worker].lenient:
            raise Irreversible(what)
        self._workers[worker].failure = RuntimeError(
            f"{what} cannot be undone, and no process can be started to read again"
        )

    def states(self, worker: int) -> States | None:
        """The generators of a worker after its last batch."""
        hosted = self._workers.get(worker)
        return hosted.states if hosted is not None else None

    def digest(self, worker: int) -> bytes:
        """Of what a worker loaded last."""
        hosted = self._workers.get(worker)
        return hosted.digest if hosted is not None else b""

    def sample(self, worker: int) -> int | None:
        hosted = self._workers.get(worker)
        return hosted.sample if hosted is not None else None

    def _as_worker(self, number: int, act: Callable[[Worker], T]) -> T:
        """Do something as a worker, in its own surroundings."""
        return in_turn(
            lambda: self._ambient.inside(self._views[number], lambda: self._with_generators(number, act)),
            lambda: self._tell_once(number, _BESIDE),
        )

    def _tell_once(self, worker: int, what: str) -> None:
        told = self._views[worker].told
        if what not in told:
            told.add(what)
            self._tell(worker, what, False)

    def _with_generators(self, number: int, act: Callable[[Worker], T]) -> T:
        if self._generators is None:
            self._generators = Generators()
        generators = self._generators
        if self._trainers is None:  # else an interrupt has kept them from being put back
            self._trainers = generators.capture(), torch_private.get_worker_info()
        try:
            with collating_into(None, self._kept):
                hosted = self._workers.get(number) or self._set_up(number, generators)
                hosted.enter()
                try:
                    return act(hosted)
                finally:
                    hosted.look_again()
                    hosted.leave()
        except SystemExit as end:
            what = f"sys.exit({end.code!r})"
            if self._views[number].lenient:
                raise RuntimeError(f"{what} would end the main process, where this worker is hosted now") from end
            raise Irreversible(what) from end
        finally:
            mine, info = self._trainers
            torch_private.put_worker_info(info)
            generators.restore(mine)
            self._trainers = None

    def _set_up(self, number: int, generators: Generators) -> Worker:
        parts, place = self._spec.parts(), self._places[number]
        self._closing[number] = parts.close
        if place.mark is not None:
            position, said, states = place.mark
            place = place._replace(mark=(position, by_value.loads(said, self._spec.classes), states))
        repeat_settings()
        roots = parts.dataset, parts.collate_fn, parts.worker_init_fn
        self._views[number].own_globals = own_globals = OwnGlobals(roots, first=False, script=parts.script)
        worker = Worker(
            self._load, parts.dataset, parts.collate_fn, parts.worker_init_fn, place, generators, Marks(),
            parts.generators, own_globals=own_globals,
        )  # fmt: skip
        self._workers[number] = worker
        return worker
