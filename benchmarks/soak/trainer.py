"""One rank of the soak: a thread a kind of loader, one that forks, one that interrupts; the end in one line of JSON."""

from __future__ import annotations

import argparse
import collections
import ctypes
import gc
import json
import logging
import os
import random
import re
import sys
import threading
import time
import traceback
from typing import Any

import psutil

from benchmarks.soak import kinds
from benchmarks.soak.data import Orders

PATIENCE = 60.0
"""Seconds until what is on its way out must be gone."""


ON_ITS_WAY = 5.0
"""Seconds until an interrupt has arrived, or Python has swallowed it: a weak reference's callback only prints it."""


class Interrupted(BaseException):
    """What Ctrl-C would raise inside ``next()``; an ``Exception`` could be that of a sample which the trainer loads."""


class Life(threading.Thread):
    """Loaders of one kind, one after the other, each compared with torch's, until told to end.

    Args:
        kind: The kind.
        expected: Fingerprints by epoch.
        orders: Where orders lie.
        extra: Further arguments: the sampler.
        pool: The pool of the kinds that share one.
        end: Set when it is time to end.
    """

    def __init__(
        self, kind: kinds.Kind, expected: list[list[bytes]], orders: Orders, extra: Any, pool: Any, end: threading.Event
    ) -> None:
        super().__init__(name=kind.name, daemon=True)
        self.kind, self.expected, self.orders = kind, expected, orders
        self.extra, self.pool, self.end = extra, pool, end
        self.counts: collections.Counter[str] = collections.Counter()
        self.causes: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self.held: tuple[Any, bytes] | None = None
        self.arrived: Any = None
        self.in_next = self.pending = False

    def run(self) -> None:
        """One loader after the other."""
        try:
            while not self.end.is_set() and not self.problems:
                self._live()
        except BaseException as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def _live(self) -> None:
        from safeloader import DataLoader, DivergenceError, Policy

        own: dict[str, Any] = {"pool": self.pool} if self.kind.pooled else self.kind.policy
        policy = Policy(batch_timeout=kinds.BATCH_TIMEOUT, max_restarts=1_000_000, bad_sample_attempts=50, **own)
        given = {**kinds.arguments(self.kind, self.orders), **self.extra}
        loader: DataLoader[Any] = DataLoader(policy=policy, name=self.kind.name, **given)
        try:
            for epoch in kinds.epochs(loader):
                if not self._epoch(loader, epoch):
                    return
        except DivergenceError:
            # What was drawn before the first copy of an epoch, or lost together with its copy, cannot be read again.
            if not self.kind.unseeded:
                raise
            self.counts["named"] += 1
        finally:
            self.held = None
            self.causes.update(fault.cause for fault in loader.report().faults)
            loader.close()
        self.counts["loaders"] += 1

    def _epoch(self, loader: Any, epoch: int) -> bool:
        """False where it ended before its time."""
        iterator, expected, taken = iter(loader), self.expected[epoch], []
        for number, wanted in enumerate(expected):
            batch = self._next(iterator)
            if batch is None:
                self.problems.append(f"epoch {epoch} ended after {number} of {len(expected)} batches")
                return False
            seen = kinds.fingerprint(batch)
            if self.kind.unseeded:
                taken.append(batch.clone())
            elif seen != wanted:
                self.problems.append(f"epoch {epoch}, batch {number}: other bytes than torch's")
                return False
            self.held = batch, seen
            self.counts["batches"] += 1
            if self.end.is_set():
                return False
        if self._next(iterator) is not None:
            self.problems.append(f"epoch {epoch} has more than {len(expected)} batches")
        if self.kind.unseeded and not kinds.once_each(taken):
            self.problems.append(f"epoch {epoch} did not give each sample once")
        self.counts["epochs"] += 1
        return True

    def _next(self, iterator: Any) -> Any:
        """The next batch, asked for again after every interrupt; None at the end.

        An interrupt that arrives when ``next()`` has returned is no doing of the loader. So this waits for one that is
        on its way, and a ``for`` leaves no instruction between the iterator's return and the assignment at which
        Python raises it.
        """
        self.arrived = None
        while True:
            try:
                self.in_next = True
                for batch in iterator:
                    self.arrived = batch
                    break
                self.in_next = False
                limit = time.monotonic() + ON_ITS_WAY
                while self.pending and time.monotonic() < limit:
                    time.sleep(0.001)
                self.pending = False
                return self.arrived
            except Interrupted:
                self.in_next = self.pending = False
                self.counts["interrupts"] += 1
                if self.arrived is not None:
                    return self.arrived


def interrupt(lives: list[Life], end: threading.Event, every: float) -> None:
    """Raise in a thread that is inside ``next()``, now and then."""
    dice = random.Random(os.getpid())
    while not end.wait(dice.uniform(0.5, 1.5) * every):
        life = dice.choice(lives)
        if life.pending or life.ident is None:
            continue
        life.pending = True
        if not life.in_next:
            life.pending = False
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(life.ident), ctypes.py_object(Interrupted))


def fork(lives: list[Life], end: threading.Event, every: float, problems: list[str]) -> int:
    """Fork now and then; the child looks twice at a batch that it holds, and leaves. Returns how often."""
    dice, forks = random.Random(os.getpid() + 1), 0
    while not end.wait(dice.uniform(0.5, 1.5) * every):
        life = dice.choice(lives)
        held = life.held
        if held is None:
            continue
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                looks = []
                for _ in range(2):
                    looks.append(kinds.fingerprint(held[0]) == held[1])
                    time.sleep(0.3)
                code = 0 if all(looks) else 2
            finally:
                os._exit(code)
        forks += 1
        _, status = os.waitpid(pid, 0)
        if status:
            problems.append(f"a forked child saw other bytes in a batch of {life.name} (status {status})")
        held = None
    return forks


# ---------------------------------------------------------------- what the program holds


def belongings() -> dict[str, dict[str, int]]:
    """Processes, descriptors, mappings of leased memory and threads, by kind."""
    descriptors: collections.Counter[str] = collections.Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors[re.sub(r":\[\d+\]", "", os.readlink(f"/proc/self/fd/{number}"))] += 1
        except FileNotFoundError:
            continue
    with open("/proc/self/maps", encoding="utf-8") as file:
        mappings = sum("memfd:safeloader" in line for line in file)
    processes = len(psutil.Process().children(recursive=True))
    threads = collections.Counter(thread.name for thread in threading.enumerate())
    return {
        "descriptors": dict(descriptors), "mappings": {"leased memory": mappings},
        "processes": {"children": processes}, "threads": dict(threads),
    }  # fmt: skip


def beyond(before: dict[str, dict[str, int]]) -> dict[str, int]:
    """What is held now and was not held before."""
    gc.collect()
    now = belongings()
    return {
        f"{field}: {name}": count - before[field].get(name, 0)
        for field, held in now.items()
        for name, count in held.items()
        if count > before[field].get(name, 0)
    }


def left_behind(before: dict[str, dict[str, int]]) -> dict[str, int]:
    """The same, once what is on its way out is gone."""
    limit = time.monotonic() + PATIENCE
    while True:
        left = beyond(before)
        if not left or time.monotonic() > limit:
            return left
        time.sleep(0.25)


def one_round(asked: argparse.Namespace, expected: dict[str, list[list[bytes]]], seconds: float) -> dict[str, Any]:
    """All kinds beside each other for so long."""
    from safeloader import WorkerPool

    end, problems = threading.Event(), list[str]()
    pool = WorkerPool(processes=2, name="pool", start_method="forkserver", standby=1)
    lives = [
        Life(kind, expected[kind.name], Orders(asked.folder), kinds.sampler(kind, asked.rank, asked.world), pool, end)
        for kind in kinds.KINDS
        if kind.name in expected
    ]
    forks: list[int] = []
    helpers = [threading.Thread(target=interrupt, args=(lives, end, asked.every), daemon=True)]
    if not asked.no_forks:
        target = lambda: forks.append(fork(lives, end, 2 * asked.every, problems))  # noqa: E731
        helpers.append(threading.Thread(target=target, daemon=True))
    for thread in (*lives, *helpers):
        thread.start()
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not problems and not any(life.problems for life in lives):
        end.wait(0.2)
    end.set()
    for thread in (*lives, *helpers):
        thread.join(PATIENCE)
        if thread.is_alive():
            frame = sys._current_frames().get(thread.ident or 0)
            at = (
                "" if frame is None else " | ".join(f"{f.name} {f.lineno}" for f in traceback.extract_stack(frame)[-6:])
            )
            problems.append(f"{thread.name} did not end: it stands still at {at}")
    pool.close()
    rows = [
        {"kind": life.name, **life.counts, "faults": dict(life.causes), "problems": life.problems} for life in lives
    ]
    return {"rows": rows, "forks": sum(forks), "problems": problems}


def main() -> None:
    """As the controller starts it: one short round as a warm-up, then the soak."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--no-forks", action="store_true")
    asked = parser.parse_args()
    os.environ["SOAK_TRAINER"] = str(os.getpid())
    logging.getLogger("safeloader").setLevel(logging.CRITICAL)
    chosen = [kind for kind in kinds.KINDS if not asked.kinds or kind.name in asked.kinds]
    expected = {kind.name: kinds.undisturbed(kind, asked.rank, asked.world) for kind in chosen}
    one_round(asked, expected, 3.0)
    gc.collect()
    time.sleep(1.0)
    before, memory = belongings(), psutil.Process().memory_info().rss
    print(json.dumps({"ready": os.getpid()}), flush=True)
    told = one_round(asked, expected, asked.seconds)
    told["left"] = left_behind(before)
    told["memory"] = [memory, psutil.Process().memory_info().rss]
    print(json.dumps(told), flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
