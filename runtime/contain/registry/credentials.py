"""Who we are at a registry: Docker's ``config.json`` and its credential helpers.

`plan_lookup` decides (which helper, else which stored entry); `CredentialFile` reads the file and runs the helper, only when a
registry asked for credentials. Writes nothing, caches nothing on disk, and no secret reaches a message.

Source: https://github.com/docker/docker-credential-helpers (protocol), docker/cli ``cli/config``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from contain.annotations import Any
from contain.errors import UsageError
from contain.paths import HostPath
from contain.progress import Progress
from contain.registry.challenge import Credentials
from contain.registry.configuration import DOCKER_HUB_HOST
from contain.values import dataclass

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_SECONDS = 30.0
_IDENTITY_USER = "<token>"  # the helpers' mark for a secret that is an identity token
_HELPER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperLookup:
    """Ask the program ``docker-credential-<helper>`` for ``server``."""

    helper: str
    server: str


def parse_docker_config(text: str, *, file: str) -> Mapping[str, Any]:
    """Docker's client configuration. Raises `UsageError` (code ``bad-docker-config``), without quoting the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not JSON", code="bad-docker-config") from error
    if not isinstance(value, dict):
        raise UsageError(f"{file}: not a JSON object", code="bad-docker-config")
    for name in ("auths", "credHelpers"):
        if not isinstance(value.get(name, {}), dict | None):
            raise UsageError(f"{file}: {name} must be an object", code="bad-docker-config")
    if not isinstance(value.get("credsStore"), str | None):
        raise UsageError(f"{file}: credsStore must be a string", code="bad-docker-config")
    return value


def plan_lookup(config: Mapping[str, Any], *, host: str, repository: str = "") -> HelperLookup | Credentials | None:
    """Where the credentials for ``host`` come from: its own helper, the store for all hosts, or the file's ``auths``.

    Keys of ``auths`` may be a host, a URL, or ``host/path``; the longest path that holds ``repository`` wins.
    Raises `UsageError` (code ``bad-docker-config``).
    """
    server = DOCKER_HUB_KEY if host == DOCKER_HUB_HOST else host
    helper = choose_helper(config, host=host)
    if helper:
        return HelperLookup(helper=helper, server=server)
    auths = config.get("auths") or {}
    wanted = {bare_key(name) for name in _names(host)}
    best: tuple[int, Any] | None = None
    for written, entry in auths.items():
        key_host, _, path = bare_key(written).partition("/")
        within = not path or repository == path or repository.startswith(f"{path}/")
        if key_host in wanted and within and (best is None or len(path) > best[0]):
            best = (len(path), entry)
    return None if best is None else parse_entry(best[1], host=host)


def choose_helper(config: Mapping[str, Any], *, host: str) -> str:
    """The credential helper for a host: its own, else the one for all hosts, "" for none. Raises `UsageError` (code
    ``bad-docker-config``)."""
    helpers = config.get("credHelpers") or {}
    helper = next((helpers[name] for name in _names(host) if name in helpers), config.get("credsStore") or "")
    if helper and (not isinstance(helper, str) or not _HELPER_NAME.match(helper)):
        raise UsageError(f"the credential helper for {host} is no program's name", code="bad-docker-config")
    return str(helper)


def _names(host: str) -> tuple[str, ...]:
    return (host, "docker.io", "index.docker.io", DOCKER_HUB_KEY) if host == DOCKER_HUB_HOST else (host,)


def bare_key(text: str) -> str:
    """``https://index.docker.io/v1/`` and ``host/`` as ``host``; ``host/path`` stays."""
    text = re.sub(r"^https?://", "", text).rstrip("/")
    return re.sub(r"/v[12]$", "", text)


def parse_entry(entry: Any, *, host: str) -> Credentials | None:
    """One entry of ``auths``; None for an empty one, which a credential store leaves there."""

    def bad(why: str) -> UsageError:
        return UsageError(f"the stored credentials for {host} {why}", code="bad-docker-config", remedy="log in again")

    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values() if value is not None):
        raise bad("are not an object of strings")
    username, password = entry.get("username") or "", entry.get("password") or ""
    if entry.get("auth"):
        try:
            decoded = base64.b64decode(entry["auth"], validate=True).decode().rstrip("\0")
        except (binascii.Error, ValueError):
            raise bad("cannot be decoded") from None
        if ":" not in decoded:
            raise bad("hold no password")
        username, password = decoded.split(":", 1)
    found = Credentials(
        username=username,
        password=password,
        identity_token=entry.get("identitytoken") or "",
        registry_token=entry.get("registrytoken") or "",
    )
    return found if found.password or found.identity_token or found.registry_token else None


def parse_helper_answer(status: int, output: bytes) -> Credentials | str | None:
    """What a helper said: credentials, None for "there are none", or the reason why it failed."""
    text = output.decode(errors="replace").strip()
    if status != 0:
        return None if "credentials not found" in text.lower() else (text.splitlines() or [f"exit status {status}"])[0][:200]
    try:
        value = json.loads(text)
        username, secret = value["Username"], value["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "its answer is not what the protocol says"
    if not isinstance(username, str) or not isinstance(secret, str):
        return "its answer is not what the protocol says"
    if username == _IDENTITY_USER:
        return Credentials(identity_token=secret)
    return Credentials(username=username, password=secret) if secret else None


def docker_config_path(environ: Mapping[str, str]) -> HostPath:
    """Docker's client configuration: ``config.json`` in ``$DOCKER_CONFIG`` or ``~/.docker``."""
    if environ.get("DOCKER_CONFIG"):
        return Path(environ["DOCKER_CONFIG"]) / "config.json"
    return Path(environ.get("HOME") or os.path.expanduser("~")) / ".docker" / "config.json"


class CredentialFile:
    """Docker's configuration on this machine: ``$DOCKER_AUTH_CONFIG`` (its text), else ``config.json`` in ``$DOCKER_CONFIG``
    or ``~/.docker``."""

    def __init__(self, *, environ: Mapping[str, str] | None = None, progress: Progress) -> None:
        self._environ = os.environ if environ is None else environ
        self._progress = progress

    def find(self, *, host: str, repository: str = "") -> Credentials | None:
        """Credentials for a host, or None. A helper that fails is a warning, and we go on without a name: most images are
        public. Raises `UsageError` (code ``bad-docker-config``) for a file that cannot be understood."""
        path = docker_config_path(self._environ)
        if text := self._environ.get("DOCKER_AUTH_CONFIG"):
            config = parse_docker_config(text, file="$DOCKER_AUTH_CONFIG")
        else:
            try:
                config = parse_docker_config(path.read_text(encoding="utf-8"), file=str(path))
            except FileNotFoundError:
                return None
            except (OSError, UnicodeDecodeError) as error:
                self._progress.warn(f"cannot read {path}: {error}; going on without credentials")
                return None
        found = plan_lookup(config, host=host, repository=repository)
        return self._ask(found) if isinstance(found, HelperLookup) else found

    def _ask(self, lookup: HelperLookup) -> Credentials | None:
        program = f"docker-credential-{lookup.helper}"
        answer: Credentials | str | None
        try:
            done = subprocess.run(
                [program, "get"],
                input=lookup.server.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_HELPER_SECONDS,
                check=False,
                env=dict(self._environ),
            )
            answer = parse_helper_answer(done.returncode, done.stdout)
        except subprocess.TimeoutExpired:
            answer = f"no answer in {_HELPER_SECONDS:g} s"
        except OSError as error:
            answer = error.strerror or str(error)
        if isinstance(answer, str):
            self._progress.warn(f"{program} for {lookup.server}: {answer}; going on without credentials")
            return None
        return answer
