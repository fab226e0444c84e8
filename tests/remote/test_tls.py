"""Links that are encrypted: who shows no certificate of the CA is not heard, and the batches are torch's."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader import Policy, RayHosts, SettingsError
from safeloader.remote import handshake, tls, wire
from safeloader.remote.tls import NAMES, TlsError, TlsFiles, tls_files
from tests.fixtures_data import Draws
from tests.remote.certificates import CA
from tests.remote.links import KEY, AgentProgram, hosts
from tests.runtime.harness import COUNT, make, play, reference, run_epoch, seed

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CA:
    """Who signs the certificates that are accepted."""
    return CA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> CA:
    """Nobody that anybody knows."""
    return CA(tmp_path_factory.mktemp("other"))


def _ends(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What both ends of a connection come to: a result, or an error."""
    ours, theirs = _pair()
    found: dict[str, Any] = {}

    def run(name: str, connection: socket.socket, act: Callable[[Any], Any]) -> None:
        connection.settimeout(20)
        try:
            found[name] = act(connection)
        except OSError as error:
            found[name] = error
            connection.close()

    thread = threading.Thread(target=run, args=("other", theirs, other))
    thread.start()
    run("one", ours, one)
    thread.join()
    return found["one"], found["other"]


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname(), timeout=20)
        theirs, _ = server.accept()
    return ours, theirs


def _prove(encrypt: Any, prove: Any, files: TlsFiles) -> Callable[[Any], Any]:
    def act(connection: socket.socket) -> Any:
        encrypted, binding = encrypt(connection, files)
        try:
            prove(encrypted, KEY, 20.0, binding)
        except OSError:
            encrypted.close()
            raise
        return encrypted

    return act


def _client(files: TlsFiles) -> Callable[[Any], Any]:
    return _prove(tls.connect, handshake.connect, files)


def _server(files: TlsFiles) -> Callable[[Any], Any]:
    return _prove(tls.accept, handshake.accept, files)


class Taker:
    """Keeps what comes, batches where they belong."""

    def __init__(self) -> None:
        self.slot = bytearray(24 << 20)
        self.records: list[tuple[int, bytes]] = []

    def room(self, slot: int, offset: int, length: int) -> memoryview:
        return memoryview(self.slot)[offset : offset + length]

    def take(self, kind: int, offset: int, data: bytearray) -> None:
        self.records.append((kind, bytes(data)))


def test_a_batch_is_received_where_it_belongs_and_words_overtake_what_waits(ca: CA) -> None:
    files = ca.host("one")
    one, other = map(wire.Stream, _ends(_client(files), _server(files)))
    batch, frames = os.urandom(20 << 20), [os.urandom(size) for size in (0, 5, 5000, 70_000)]
    for start in range(0, len(batch), wire.PIECE):
        one.put(wire.BYTES, memoryview(batch)[start : start + wire.PIECE], 3, start)
    for frame in frames:
        one.put(wire.FRAMES, frame)
    taker = Taker()
    overtook = False
    while len(taker.records) < 20 + len(frames) + 1:
        one.flush()
        if one.waits and not overtook:  # a piece is encrypted in part, and has to come next
            one.put_next(wire.SAYS, b"page")
            overtook = True
        other.receive(taker)
    assert overtook
    assert bytes(taker.slot[: len(batch)]) == batch
    assert [data for kind, data in taker.records if kind == wire.FRAMES] == frames
    assert [kind for kind, _ in taker.records].index(wire.SAYS) < 20
    one.close()
    while not other.ended:
        other.receive(taker)
    other.close()


def test_who_shows_no_certificate_of_the_ca_is_not_heard(ca: CA, other_ca: CA) -> None:
    good, wrong = ca.host("good"), other_ca.host("wrong")
    mixed = good._replace(certificate=wrong.certificate, key=wrong.key)  # believes the right CA, shows the wrong one
    for mine, theirs in ((wrong, good), (good, wrong), (mixed, good), (good, mixed)):
        one, other = _ends(_client(mine), _server(theirs))
        assert isinstance(one, OSError)
        assert isinstance(other, TlsError)
        assert "CERTIFICATE_VERIFY_FAILED" in f"{one}{other}"


def test_a_plain_peer_is_an_error_on_both_sides(ca: CA) -> None:
    files = ca.host("one")
    one, other = _ends(lambda connection: handshake.connect(connection, KEY, 20.0), _server(files))
    assert isinstance(one, OSError)
    assert "no encrypted connection" in str(other)
    one, other = _ends(_client(files), lambda connection: handshake.accept(connection, KEY, 20.0))
    assert isinstance(one, OSError)
    assert isinstance(other, handshake.NotProved)


def test_who_has_a_certificate_and_passes_on_what_both_say_is_found_out(ca: CA) -> None:
    """Somebody in the middle ends both encrypted connections with a certificate of the same CA."""
    good, middle = ca.host("good"), ca.host("middle")
    near, far = _pair(), _pair()
    found: list[Any] = []

    def end(act: Callable[[Any], Any], connection: socket.socket) -> None:
        try:
            act(connection)
        except OSError as error:
            found.append(str(error))
        connection.close()

    def pass_on(one: ssl.SSLSocket, other: ssl.SSLSocket) -> None:
        """Both ways, in one thread: OpenSSL's connections bear no second one before Python 3.13."""
        for connection in (one, other):
            connection.setblocking(False)
        to = {one: other, other: one}
        with contextlib.suppress(OSError):
            while True:
                for source in select.select(to, [], [])[0]:
                    with contextlib.suppress(ssl.SSLWantReadError):  # also after what TLS has to say for itself
                        while data := source.recv(1000):
                            to[source].sendall(data)
                        return

    threads = [
        threading.Thread(target=end, args=(_client(good), near[0])),
        threading.Thread(target=end, args=(_server(good), far[1])),
    ]
    for thread in threads:
        thread.start()
    to_client, to_server = tls.accept(near[1], middle)[0], tls.connect(far[0], middle)[0]
    with to_client, to_server:
        pass_on(to_client, to_server)
    for thread in threads:
        thread.join()
    assert "the other end does not know the key of this job" in found


def test_files_are_a_directory_or_three_paths_and_what_is_wrong_is_named(ca: CA, tmp_path: Path) -> None:
    files = ca.host("one")
    directory = Path(files.certificate).parent
    assert RayHosts(tls=str(directory)).tls == str(directory)
    assert tls_files(directory) == tls_files(tuple(str(directory / name) for name in NAMES)) == files
    other = ca.host("two")
    shutil.copy(files.ca, tmp_path / "ca.crt")
    for wrong, why in (
        (7, "not"),
        (("a", "b"), "neither a directory nor"),
        (str(tmp_path), "tls.crt"),
        ((files.certificate, other.key, files.ca), "KEY_VALUES_MISMATCH|key values mismatch"),
        ((files.certificate, ca.locked_key("one"), files.ca), "protected by a password"),
        ((files.certificate, files.key, files.key), "tls"),
    ):
        with pytest.raises(SettingsError, match=f"tls=.* is not accepted: .*({why})"):
            RayHosts(tls=wrong)  # type: ignore[arg-type]


def test_batches_that_come_encrypted_are_torchs_through_a_kill(ca: CA) -> None:
    files = ca.host("one")
    with (
        AgentProgram(tls=files) as agent,
        make(Draws(COUNT), policy=Policy(hosts=hosts(agent.address, tls=files))) as loader,
    ):
        seed(0)
        played = play(_killing(loader, agent))
        assert [played] == reference()
        (fault,) = loader.report().faults
        assert (fault.cause, fault.detail) == ("died", "SIGKILL")


def _killing(loader: Any, agent: AgentProgram) -> Iterator[Any]:
    for number, batch in enumerate(loader):
        yield batch
        if number == 1:
            agent.processes()[0].kill()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["agent's", "trainer's", "plain agent"])
def test_a_wrong_certificate_or_a_plain_agent_is_one_line(
    ca: CA, other_ca: CA, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, wrong = ca.host("good"), other_ca.host("wrong")
    with AgentProgram(tls={"agent's": wrong, "trainer's": good, "plain agent": None}[kind]) as agent:
        mine = wrong if kind == "trainer's" else good
        policy = Policy(hosts=hosts(agent.address, tls=mine))
        with caplog.at_level(logging.WARNING, "safeloader"), make(Draws(COUNT), policy=policy) as loader:
            assert [run_epoch(loader)] == reference()
            assert loader.report().faults == []
        assert agent.processes() == []
    (line,) = {record.getMessage() for record in caplog.records if getattr(record, "code", "") == "SL039"}
    assert "train: processes stay on this host" in line
