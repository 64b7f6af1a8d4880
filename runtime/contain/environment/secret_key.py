"""The key under which secret values are hashed: from the user, or made once for this machine's store.

Two captures can tell whether a secret differs only if they were made with the same key; without it, a hash of a short
secret could be guessed by whoever reads a capture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from contain.errors import HostError
from contain.paths import HostPath

VARIABLE = "CONTAIN_FINGERPRINT_KEY"
_BYTES = 32


def read_secret_key(home: HostPath, environ: Mapping[str, str] | None = None) -> bytes:
    """``$CONTAIN_FINGERPRINT_KEY`` (any text), else the store's own random key, which is made (mode 0600) on first use."""
    text = (os.environ if environ is None else environ).get(VARIABLE, "")
    if text:
        return text.encode(errors="surrogateescape")
    path = home / "fingerprint-key"
    try:
        home.mkdir(parents=True, exist_ok=True)
        key = _read(path)
        if len(key) == _BYTES:
            return key
        aside = home / f".fingerprint-key.{os.getpid()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, os.urandom(_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(aside, path)  # the first of two processes wins, the other reads its key
        except FileExistsError:
            if len(_read(path)) != _BYTES:
                os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        return _read(path)
    except OSError as error:
        raise HostError(
            "the key for hashing secrets cannot be kept",
            call="open",
            path=str(path),
            errno=error.errno or 0,
            code="fingerprint-key",
        ) from error


def _read(path: HostPath) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
