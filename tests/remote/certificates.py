"""Certificates, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from safeloader.remote.tls import NAMES, TlsFiles

__all__ = ["CA"]

_KEY = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"


class CA:
    """Signs certificates for hosts.

    Args:
        folder: where everything lies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._do("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "2")

    def host(self, name: str) -> TlsFiles:
        """A host's directory, as `safeloader.RayHosts` takes it."""
        folder = self._folder / name
        files = TlsFiles(*(str(folder / file) for file in NAMES))
        if not folder.exists():
            folder.mkdir()
            self._do("req", *_KEY, "-keyout", files.key, "-out", f"{name}.csr", "-subj", f"/CN={name}")
            signs = "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"
            self._do("x509", "-req", "-in", f"{name}.csr", *signs, "-out", files.certificate)
            Path(files.ca).write_bytes((self._folder / "ca.crt").read_bytes())
        return files

    def locked_key(self, name: str) -> str:
        """A host's key, protected by a password."""
        path = str(self._folder / name / "locked.key")
        self._do("ec", "-in", self.host(name).key, "-aes256", "-passout", "pass:secret", "-out", path)
        return path

    def _do(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)
