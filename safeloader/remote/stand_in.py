"""The small process beside the trainer that stands in for one on another host.

It is told where there is room, connects, and passes on what the trainer and the process say. Its page, its slots and
its channel are the trainer's; how it ends is how the process ended. Where there is no room, it becomes the process
itself: nothing is lost but the time of asking. One that is to take the place of such a process (a failback) ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import marshal
import os
import select
import signal
import socket
import struct
from time import monotonic
from typing import NamedTuple, NoReturn

from safeloader.remote import handshake, wire
from safeloader.remote.trainer_side import TrainerSide
from safeloader.runtime import system
from safeloader.runtime.child import process_main
from safeloader.runtime.start import phases

__all__ = ["HERE", "LOST", "PLACED", "Order", "main"]

# What it says to whoever placed it: (host, pid there, paths that are not there); why it is the process itself; why the
# link is gone.
PLACED, HERE, LOST = range(3)

_CONNECT = 10.0  # seconds for an agent to answer, and for a process to be started
_BEAT = 0.5  # seconds between two questions how the process is
_UNSURE = 3 * _BEAT  # seconds without an answer after which the link may be what is slow
_SAYS = struct.Struct("<ddIB")  # time of ASKS, time there, state, phase; then the words
_ASKED = struct.Struct("<dd")  # time, what the clock there lacks; then the words
_OLDER = 1.02  # by how much the best round trip so far counts as slower with each beat


class Order(NamedTuple):
    """Where there is room; plain values.

    Attributes:
        address: of an agent.
        key: the job's.
        silence: seconds without a word after which the link counts as cut.
        likeness: of the trainer (`node.Likeness`).
        tls: what the link is encrypted with, if it is (`tls.TlsFiles`).
        paths: that the dataset names.
    """

    address: tuple[str, int]
    key: bytes
    silence: float
    likeness: tuple[dict[str, str], dict[str, str]]
    tls: tuple[str, str, str] | None
    paths: tuple[str, ...]


def main(
    channel: int, stacks: int, lifeline: int, turns: int, starts: int, control: int, place: int, row: int,
    modules: tuple[str, ...],
) -> NoReturn:  # fmt: skip
    """Stand in for a process on another host, or be the process.

    Args:
        channel: as a process is given it.
        stacks: the same.
        lifeline: the same.
        turns: the same.
        starts: the same.
        place: the same.
        row: the same.
        modules: the same.
        control: where it is told its order, and says what became of it.
    """
    for descriptor in (channel, stacks, lifeline, turns, starts, control):
        os.set_inheritable(descriptor, False)
    process_main.protect(stacks, lifeline)
    mark = phases.PhaseMark(starts, row)
    mark(phases.PLACE)
    teller = socket.socket(fileno=control)
    order, why, failback = _order(teller)
    if order is not None:
        try:
            with contextlib.closing(_connection(order)) as connection:
                stand_in = StandIn(connection, order, channel, stacks, teller, mark, modules)
                with contextlib.closing(stand_in):
                    stand_in.serve()
        except _NotThere as error:
            why = f"{order.address[0]} is not used: {error}"
        except OSError as error:
            why = f"{order.address[0]} port {order.address[1]}: {error}"
    with contextlib.suppress(OSError):
        teller.send(marshal.dumps((HERE, why)))
    teller.close()
    if failback:
        os._exit(0)
    process_main.main(channel, stacks, lifeline, turns, starts, place, row, modules)


def _order(teller: socket.socket) -> tuple[Order | None, str, bool]:
    """Where to go, or why nowhere; and whether it is of no use on this host."""
    try:
        order, why, failback = marshal.loads(teller.recv(1 << 20))
    except (OSError, EOFError, ValueError):
        return None, "", False
    return None if order is None else Order(*order), why, failback


def _connection(order: Order) -> socket.socket:
    """To an agent that has proved itself.

    Raises:
        OSError: there is none.
    """
    connection, binding = socket.create_connection(order.address, timeout=_CONNECT), b""
    try:
        if order.tls is not None:
            from safeloader.remote import tls

            connection, binding = tls.connect(connection, tls.TlsFiles(*order.tls))
        handshake.connect(connection, order.key, _CONNECT, binding)
    except BaseException:
        connection.close()
        raise
    return connection


class _NotThere(Exception):
    """The process cannot be on that host; the text says why."""


class StandIn:
    """Serves one process; implements `wire.Receiver`.

    Args:
        connection: to an agent that has proved itself.
        order: the order.
        channel, stacks: the process's ends.
        teller: where it says what became of its order.
        mark: where it tells how far the start is.
        modules: what the process imports before it says that it is ready.
    """

    def __init__(
        self, connection: socket.socket, order: Order, channel: int, stacks: int, teller: socket.socket,
        mark: phases.PhaseMark, modules: tuple[str, ...],
    ) -> None:  # fmt: skip
        self._order = order
        self._stream = wire.Stream(connection)
        self._trainer = TrainerSide(self._stream, channel, self._ask_time)
        self._stacks = stacks
        self._teller = teller
        self._mark = mark
        self._modules = modules
        self._started = False
        self._refused: str | None = None
        self._code: int | None = None
        self._shift, self._trip = 0.0, float("inf")
        self._heard_at = monotonic()
        self._beat_at = 0.0
        self._wakes, wakes = socket.socketpair()
        for end in (self._wakes, wakes):
            end.setblocking(False)
        self._woken_by = wakes

    def serve(self) -> None:
        """Until the process has ended; returns only if it cannot be there.

        Raises:
            _NotThere: it cannot.
        """
        self._start()
        faulthandler.unregister(system.STACK_SIGNAL)
        signal.signal(system.STACK_SIGNAL, lambda *_: self._stream.ended)  # it only wakes the loop
        signal.set_wakeup_fd(self._woken_by.fileno(), warn_on_full_buffer=False)
        while self._code is None or self._trainer.waits:
            self._wait()
            if self._code is None:
                self._hear_stream()
                self._trainer.hear()
                self._beat()
            self._trainer.feed()
            self._stream.flush()
        self._end(self._code)

    def _start(self) -> None:
        """Have the process started.

        Raises:
            _NotThere: it cannot be.
        """
        from safeloader.runtime.start import surroundings

        facts = surroundings.mine
        end = monotonic() + _CONNECT + self._order.silence
        self._ask_time()
        while not self._started:
            if self._refused is not None:
                raise _NotThere(self._refused)
            if self._stream.ended or monotonic() > end:
                raise OSError("the agent does not answer")
            self._stream.flush()
            poller = select.poll()
            poller.register(self._stream, self._stream.wanted)
            poller.poll(100)
            self._stream.receive(self)
            if facts is not None and self._trip < float("inf"):  # the clocks are compared
                asked = tuple(facts), self._modules, tuple(self._order.likeness), self._shift, self._order.paths
                self._stream.put(wire.START, marshal.dumps(asked))
                facts = None

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._wakes, select.POLLIN)
        if not self._stream.ended:
            poller.register(self._stream, self._stream.wanted)
        if self._trainer.wanted:
            poller.register(self._trainer, self._trainer.wanted)
        poller.poll(int(_BEAT * 1000))

    # ------------------------------------------------------------ the stream

    def _hear_stream(self) -> None:
        if self._stream.receive(self):
            self._heard_at = monotonic()
        if self._code is not None:
            return
        where = f"{self._order.address[0]} port {self._order.address[1]}"
        if self._stream.ended:
            self._lose(f"the agent at {where} is gone")
        page, silent = self._trainer.page, monotonic() - self._heard_at
        if silent > _UNSURE and page is not None:
            page.excuse()  # a cable that was cut is no sample's fault
        if silent > self._order.silence:
            if page is not None:
                page.disown()
            self._lose(f"nothing was heard from {where} for {self._order.silence:g} s")

    def _lose(self, why: str) -> NoReturn:
        with contextlib.suppress(OSError):
            self._teller.send(marshal.dumps((LOST, why)))
        os._exit(1)

    def room(self, slot: int, offset: int, length: int) -> memoryview:
        """The bytes of a batch go where the trainer looks for them."""
        return self._trainer.room(slot, offset, length)

    def take(self, kind: int, offset: int, data: bytearray) -> None:
        """One record."""
        if kind == wire.FRAMES:
            self._trainer.tell(data)
        elif kind == wire.SAYS:
            self._note(bytes(data))
        elif kind == wire.STACKS:
            with contextlib.suppress(OSError):
                os.write(self._stacks, data)
        elif kind == wire.EXIT:
            self._code = int(data)
        elif kind == wire.NEED:
            self._trainer.send_payload()
        elif kind == wire.STARTED:
            self._started = True
            self._teller.send(marshal.dumps((PLACED, marshal.loads(data))))
        elif kind == wire.REFUSED:
            self._refused = data.decode()

    def _note(self, said: bytes) -> None:
        asked_at, there, state, phase = _SAYS.unpack_from(said)
        words = said[_SAYS.size :]
        if words and self._trainer.page is not None:
            self._trainer.page.copy_says(words, chr(state))
        elif phase != phases.ASKED:
            self._mark(phase)
        if asked_at:
            now = monotonic()
            trip, self._trip = now - asked_at, self._trip * _OLDER
            if trip <= self._trip:  # the shorter the trip, the better is known when it was answered
                self._trip, self._shift = trip, (now + asked_at) / 2 - there

    def _beat(self) -> None:
        """Ask how the process is, and tell what the trainer wants of it."""
        if self._wakes_came():
            self._stream.put(wire.STACKS_WANTED)
        if monotonic() - self._beat_at >= _BEAT:
            self._ask_time()

    def _ask_time(self) -> None:
        self._beat_at = monotonic()
        self._stream.put_next(wire.ASKS, _ASKED.pack(self._beat_at, self._shift) + self._trainer.asks())

    def _wakes_came(self) -> bool:
        try:
            return system.STACK_SIGNAL in self._wakes.recv(1 << 10)
        except OSError:
            return False

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """The process cannot be there."""
        self._trainer.close()
        for end in (self._wakes, self._woken_by):
            end.close()

    def _end(self, code: int) -> NoReturn:
        """As the process ended."""
        if code >= 0:
            os._exit(code & 0xFF)
        system.die_by(-code)
