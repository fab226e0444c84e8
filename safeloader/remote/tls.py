"""Encrypts the stream between a stand-in and an agent, where that is asked for; both show a certificate of one CA.

Who may speak is decided by the job's key, inside (`handshake`): its proofs are bound to both certificates, so that
nobody who has another certificate of the same CA can stand between the two. A certificate's name is not compared with
an address.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

__all__ = ["NAMES", "TlsError", "TlsFiles", "accept", "connect", "server_context", "tls_files"]

NAMES = ("tls.crt", "tls.key", "ca.crt")
"""What the files are called in a directory."""


class TlsError(OSError):
    """The connection cannot be encrypted, or the other end's certificate is not one that is accepted."""


class TlsFiles(NamedTuple):
    """Paths, on every host the same.

    Attributes:
        certificate: of this host, with the chain up to the CA.
        key: of that certificate; not protected by a password.
        ca: certificates that the other end's has to be signed by.
    """

    certificate: str
    key: str
    ca: str


def tls_files(given: str | os.PathLike[str] | tuple[str, ...]) -> TlsFiles:
    """The three files that a user names, or the directory of.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, (str, os.PathLike)):
        return TlsFiles(*(os.path.join(os.path.abspath(given), name) for name in NAMES))
    paths = [os.path.abspath(path) for path in given]
    if len(paths) != len(NAMES):
        raise ValueError("neither a directory nor the paths of a certificate, a key and a CA")
    return TlsFiles(*paths)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """What an agent accepts connections with.

    Raises:
        TlsError: a file is not there, or not what it should be.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, files)


def connect(connection: socket.socket, files: TlsFiles) -> tuple[ssl.SSLSocket, bytes]:
    """A stand-in's side: the encrypted connection, and what both ends know it by.

    Raises:
        OSError: it cannot be.
    """
    encrypted = _encrypted(_context(ssl.PROTOCOL_TLS_CLIENT, files), connection, server=False)
    return encrypted, _binding(_shown(encrypted), _own(files))


def accept(connection: socket.socket, files: TlsFiles) -> tuple[ssl.SSLSocket, bytes]:
    """An agent's side; the files are read again, as certificates are renewed.

    Raises:
        OSError: it cannot be.
    """
    encrypted = _encrypted(server_context(files), connection, server=True)
    return encrypted, _binding(_own(files), _shown(encrypted))


def _encrypted(context: ssl.SSLContext, connection: socket.socket, server: bool) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(connection, server_side=server)
    except ssl.SSLError as error:
        raise TlsError(f"no encrypted connection (tls): {error.reason or error}") from error


def _context(kind: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # see above
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        for path in files:
            os.stat(path)  # whose error names the path
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        context.load_verify_locations(files.ca)
    except (OSError, ValueError) as error:
        where = "" if getattr(error, "filename", None) else f" ({', '.join(files)})"
        raise TlsError(f"tls: {error}{where}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is protected by a password, and nobody is there to be asked for it")


def _own(files: TlsFiles) -> bytes:
    with open(files.certificate, encoding="ascii", errors="replace") as file:
        text = file.read()
    start, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    return ssl.PEM_cert_to_DER_cert(text[start : end + len(ssl.PEM_FOOTER)])


def _shown(encrypted: ssl.SSLSocket) -> bytes:
    return encrypted.getpeercert(binary_form=True) or b""


def _binding(agent: bytes, stand_in: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(agent).digest() + hashlib.sha256(stand_in).digest()).digest()
