"""An agent's side of one process: starts it, and passes on what it and its stand-in say. One thread each."""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import struct
import threading
import traceback
from multiprocessing import resource_tracker
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from safeloader.remote import named_paths, node, wire
from safeloader.remote.glance import glance
from safeloader.remote.node_slots import NodeSlots
from safeloader.runtime import protocol as p
from safeloader.runtime import system
from safeloader.runtime.channel import frame
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.start import phases
from safeloader.runtime.start.spawned import Spawned
from safeloader.runtime.start.surroundings import Facts

if TYPE_CHECKING:
    from safeloader.remote.node_store import NodeStore
    from safeloader.remote.payloads import Pending
    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["SAYS", "Relay"]

SAYS = struct.Struct("<ddIB")  # time of ASKS, time here, state, phase; then the words
_ASKED = struct.Struct("<dd")  # time, what the clock lacks; then the words
_TICK = 100  # milliseconds; how soon a payload is seen that another relay fetched, and that a process is gone
_END = 5.0  # seconds for a killed process to be gone, and for the last words to be sent
_CHUNK = 1 << 16
_starting = threading.Lock()


class Relay:
    """Serves one connection; implements `wire.Receiver`.

    Args:
        connection: of a stand-in that has proved itself.
        store: the agent's payloads, and those of other agents on this node.
        silence: seconds without a word of the stand-in after which the process is ended.
        own_first: see `node.Here`.
    """

    def __init__(self, connection: socket.socket, store: NodeStore, silence: float, own_first: bool) -> None:
        self._stream = wire.Stream(connection)
        self._store = store
        self._silence = silence
        self._own_first = own_first
        self._body: Spawned | None = None
        self._page: Heartbeat | None = None
        self._arena = Arena()
        self._slots = NodeSlots()
        self._shift = 0.0
        self._asked = b""
        self._join: tuple[str, int, int, int, bytes] | None = None
        self._payload: Pending | None = None
        self._fetches = self._joined = self._shut = self._ended = False
        self._from_trainer, self._from_process = wire.Cutter(), wire.Cutter()
        self._channel, self._theirs = socket.socketpair()
        self._to_process = wire.Outgoing(self._channel)
        self._stacks, self._stack_writer = os.pipe()
        os.set_blocking(self._stacks, False)
        self._channel.setblocking(False)

    def serve(self) -> None:
        """Until the process has ended, or the stand-in is gone."""
        heard_at = monotonic()
        try:
            while not self._stream.ended and not self._ended:
                self._wait()
                if self._stream.receive(self):
                    heard_at = monotonic()
                elif monotonic() - heard_at > self._silence:
                    break
                self._pass_on()
            self._say_last()
        except Exception as error:
            if self._body is None:
                self._refuse(f"{type(error).__name__}: {error}")
                self._say_last()
            traceback.print_exc()
        finally:
            self.close()

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._stream, self._stream.wanted)
        if self._body is not None:
            poller.register(self._channel, select.POLLIN | (select.POLLOUT if self._to_process else 0))
            poller.register(self._stacks, select.POLLIN)
            if self._body.pidfd >= 0:
                poller.register(self._body.pidfd, select.POLLIN)
        poller.poll(_TICK)

    def _pass_on(self) -> None:
        if self._join is not None and not self._joined:
            self._try_to_join()
        self._feed_process()
        self._hear_process()
        self._stream.flush()

    # ------------------------------------------------------------ of the stand-in

    def room(self, slot: int, offset: int, length: int) -> memoryview:
        """No batch comes this way."""
        raise ValueError("a stand-in sends no batches")

    def take(self, kind: int, offset: int, data: bytearray) -> None:
        """One record."""
        if kind == wire.START:
            self._start(marshal.loads(data))
        elif kind == wire.ASKS:
            self._answer(bytes(data))
        elif kind == wire.DATA:
            self._forward(data)
        elif kind == wire.JOIN:
            self._join = marshal.loads(data)
        elif kind == wire.PAYLOAD and self._payload is not None:
            self._payload.write(data, offset)
        elif kind == wire.SHUT:
            self._shut = True
        elif kind == wire.STACKS_WANTED and self._body is not None:
            self._body.send_signal(system.STACK_SIGNAL)

    def _start(self, asked: tuple[Any, ...]) -> None:
        facts, modules, (versions, sources), self._shift, paths = asked
        here = node.Here(Facts(*facts), self._own_first)
        differs = node.differences(node.Likeness(versions, sources), here.facts.path)
        if differs:
            self._refuse(differs)
            return
        try:
            with _starting:
                given = cast("Surroundings", here)
                self._body = Spawned(given, self._theirs.fileno(), self._stack_writer, tuple(modules))
        except OSError as error:
            self._refuse(f"no process can be started: {error}")
            return
        self._theirs.close()
        os.close(self._stack_writer)
        self._stack_writer = -1
        absent = named_paths.missing(paths, here.facts.directory[0])
        self._stream.put(wire.STARTED, marshal.dumps((node.host_name(), self._body.pid, absent)))

    def _refuse(self, why: str) -> None:
        self._stream.put(wire.REFUSED, why.encode())
        self._ended = True

    def _answer(self, asked: bytes) -> None:
        """The trainer's words are written, the process's are told."""
        at, self._shift = _ASKED.unpack_from(asked)
        self._asked = asked[_ASKED.size :]
        if self._page is not None:
            self._page.copy_asks(self._asked, self._shift)
        self._say(at)

    def _say(self, at: float) -> None:
        body = self._body
        state = ord(system.process_state(body.pid)) if body is not None else ord("?")
        phase = phases.read(body.row) if body is not None else phases.ASKED
        words = self._page.says() if self._page is not None else b""
        self._stream.put_next(wire.SAYS, SAYS.pack(at, monotonic(), state, phase) + words)

    def _forward(self, data: bytearray) -> None:
        for body in self._from_trainer.feed(data):
            message = glance(body)
            if isinstance(message, p.Task):
                body = self._slots.task(message, body)
            self._to_process.add(wire.FRAME_HEAD.pack(len(body)) + body)

    # ------------------------------------------------------------ joining

    def _try_to_join(self) -> None:
        """As soon as the payload is here, whoever brings it."""
        assert self._join is not None
        digest, size, number, count, data = self._join
        if self._payload is None or not self._store.own.is_wanted(self._payload):
            self._payload, self._fetches = self._store.want(self, digest, size)
            if self._fetches:
                self._stream.put(wire.NEED)
        if self._payload is None or not self._payload.whole or self._body is None:
            return
        self._joined = True
        self._page = Heartbeat(self._arena.page(number))
        if self._asked:
            self._page.copy_asks(self._asked, self._shift)
        descriptors = [self._payload.descriptor, self._arena.descriptor]
        if count > len(descriptors):  # the trainer's resource tracker is one; this host has its own
            tracker: Any = resource_tracker._resource_tracker
            descriptors.append(tracker._fd)
        try:
            socket.send_fds(self._channel, [data], descriptors)
        except OSError:
            pass  # it is gone: its exit will be told

    # ------------------------------------------------------------ of the process

    def _feed_process(self) -> None:
        if not self._joined:
            return
        if self._to_process.flush() and self._shut:
            self._shut = False
            try:
                self._channel.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def _hear_process(self) -> None:
        if self._body is None:
            return
        code = self._body.poll()  # first: what it said before its end is read below
        self._hear_channel()
        self._hear_stacks()
        if code is not None:
            self._say(0.0)
            self._stream.put(wire.EXIT, str(code).encode())
            self._ended = True

    def _hear_channel(self) -> None:
        while True:
            try:
                data = self._channel.recv(_CHUNK)
            except OSError:
                return
            if not data:
                return
            for body in self._from_process.feed(data):
                self._tell(body)

    def _tell(self, body: bytes) -> None:
        """A message of the process, behind the bytes that it speaks of."""
        message = glance(body)
        if isinstance(message, p.Ready):
            body = frame(p.Ready(message.at + self._shift))[wire.FRAME_HEAD.size :]
        answer = self._slots.answer(message)
        if answer is not None:
            self._send_batch(answer.here, answer.there, answer.nbytes)
        self._stream.put(wire.FRAMES, wire.FRAME_HEAD.pack(len(body)) + body)

    def _send_batch(self, here: int, there: int, nbytes: int) -> None:
        if not nbytes:
            self._slots.release(here)
            return
        view = self._arena.map(here, nbytes).view()
        for start in range(0, nbytes, wire.PIECE):
            end = min(start + wire.PIECE, nbytes)
            last = (lambda: self._slots.release(here)) if end == nbytes else None
            self._stream.put(wire.BYTES, view[start:end], there, start, last)

    def _hear_stacks(self) -> None:
        try:
            while data := os.read(self._stacks, _CHUNK):
                self._stream.put(wire.STACKS, data)
        except OSError:
            pass

    # ------------------------------------------------------------ the end

    def _say_last(self) -> None:
        """Let the stand-in hear the last words."""
        end = monotonic() + _END
        while self._stream.waits and not self._stream.ended and monotonic() < end:
            poller = select.poll()
            poller.register(self._stream, select.POLLOUT)
            poller.poll(_TICK)
            self._stream.flush()

    def close(self) -> None:
        """The process is ended, if it lives."""
        body, self._body = self._body, None
        if body is not None:
            body.send_signal(signal.SIGKILL)
            end = monotonic() + _END
            while body.poll() is None and monotonic() < end:
                poller = select.poll()
                if body.pidfd >= 0:
                    poller.register(body.pidfd, select.POLLIN)
                poller.poll(_TICK)
            body.close()
        self._store.own.let_go(self)
        self._stream.close()
        for end_of_channel in (self._channel, self._theirs):
            end_of_channel.close()
        for descriptor in (self._stacks, self._stack_writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._stacks = self._stack_writer = -1
        self._arena.close()
