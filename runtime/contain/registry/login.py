"""Logging in and out: is the password right, and where is it kept.

`log_in` asks the registry first, and writes only what it accepted, to Docker's own ``config.json`` or through the credential
helper that is configured there. What to write is decided by `plan_login` and `plan_logout` (values in, values out). The file is
replaced in one step, readable by its owner only; everything else in it stays. No secret reaches a message.

Sources: docker/cli ``cli/config`` (the file), docker-credential-helpers (``store`` and ``erase``).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import stat
import subprocess
from collections.abc import Mapping
from contextlib import contextmanager, suppress

from contain.annotations import TYPE_CHECKING, Any
from contain.errors import HostError, RegistryError, UsageError
from contain.paths import HostPath
from contain.progress import Progress, Silent
from contain.reference import DEFAULT_DOMAIN
from contain.registry.challenge import Credentials
from contain.registry.client import ApiRequest, error_detail
from contain.registry.configuration import DOCKER_HUB_HOST, RegistryConfiguration
from contain.registry.credentials import (
    DOCKER_HUB_KEY,
    CredentialFile,
    bare_key,
    choose_helper,
    docker_config_path,
    parse_docker_config,
)
from contain.registry.session import open_session
from contain.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

_HELPER_SECONDS = 30.0
_HUB_NAMES = frozenset({"", DEFAULT_DOMAIN, "index.docker.io", DOCKER_HUB_HOST, "registry.hub.docker.com"})
_HOST = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginServer:
    """Where to log in. ``domain``: as in image names; ``host``: who answers for it; ``name``: its key in Docker's file."""

    domain: str
    host: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperCall:
    """Run ``docker-credential-<helper> <action>`` with ``text`` as its input."""

    helper: str
    action: str
    text: str

    def __repr__(self) -> str:
        return f"HelperCall(helper={self.helper!r}, action={self.action!r}, text=...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """What a login or logout does: first a helper's call, if any, then the file's new content (None: leave it)."""

    call: HelperCall | None = None
    config: Mapping[str, Any] | None = None
    known: bool = True  # a logout found something to take away


def parse_server(text: str) -> LoginServer:
    """``localhost:5000``, ``https://registry.example.org/v2/``, "" for Docker Hub. Raises `UsageError` (``bad-server``)."""
    host = re.sub(r"^https?://", "", text.strip()).partition("/")[0]
    if host in _HUB_NAMES:
        return LoginServer(domain=DEFAULT_DOMAIN, host=DOCKER_HUB_HOST, name=DOCKER_HUB_KEY)
    if not _HOST.match(host):
        raise UsageError(f"{text!r} is not a registry's address", code="bad-server", remedy="write host[:port]")
    return LoginServer(domain=host, host=host, name=host)


def plan_login(config: Mapping[str, Any], server: LoginServer, credentials: Credentials) -> ConfigChange:
    """Store credentials: through the helper if one is configured (then the file keeps an empty entry), else in the file."""
    auths = dict(config.get("auths") or {})
    helper = choose_helper(config, host=server.host)
    if helper:
        auths[server.name] = {}
        text = json.dumps({"ServerURL": server.name, "Username": credentials.username, "Secret": credentials.password})
        return ConfigChange(call=HelperCall(helper=helper, action="store", text=text), config={**config, "auths": auths})
    packed = base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
    auths[server.name] = {"auth": packed}
    return ConfigChange(config={**config, "auths": auths})


def plan_logout(config: Mapping[str, Any], server: LoginServer, *, held: bool) -> ConfigChange:
    """Take away every entry for the host itself (not those for paths on it), and have the helper forget it. ``held``: the
    helper has something, whatever the file says."""
    auths = dict(config.get("auths") or {})
    names = {bare_key(server.name), server.host, server.domain}
    mine = [key for key in auths if bare_key(key) in names]
    helper = choose_helper(config, host=server.host)
    call = HelperCall(helper=helper, action="erase", text=server.name) if helper and (mine or held) else None
    kept = {key: value for key, value in auths.items() if key not in mine}
    return ConfigChange(call=call, config={**config, "auths": kept} if mine else None, known=bool(mine) or call is not None)


def existing_login(server: LoginServer, *, progress: Progress, environ: Mapping[str, str] | None = None) -> str:
    """The user name that is stored for a server; "" if none is."""
    found = CredentialFile(environ=environ, progress=progress).find(host=server.host)
    return found.username if found is not None else ""


def log_in(
    server: LoginServer,
    *,
    username: str = "",
    password: str = "",
    progress: Progress,
    environ: Mapping[str, str] | None = None,
    configuration: RegistryConfiguration | None = None,
) -> None:
    """Ask the registry whether it takes these credentials, and store them if so. Without any: ask about those stored already,
    and store nothing.

    Raises `RegistryError` (``login-denied``, ``not-a-registry``, and those of `RegistryClient.open`), `UsageError`
    (``bad-docker-config``), `HostError` (``credentials-not-stored``).
    """
    environ = os.environ if environ is None else environ
    credentials = Credentials(username=username, password=password)
    source = _Given(credentials) if username else CredentialFile(environ=environ, progress=progress)
    with open_session(server.domain, configuration=configuration, progress=Silent(), credentials=source) as session:
        request = ApiRequest(method="GET", repository="", path="", actions=())
        with session.client.open(session.endpoint, request) as response:
            if response.status in (401, 403):
                raise RegistryError(
                    f"login attempt to {server.host} failed: incorrect username or password{error_detail(response)}",
                    code="login-denied",
                )
            if response.status != 200 or not response.same_origin:  # another host's word says nothing of the password
                raise RegistryError(
                    f"{server.host} does not answer as a registry does: status {response.status} at {response.url}",
                    code="not-a-registry",
                    remedy="check the address",
                )
    if not username:
        return
    path = docker_config_path(environ)
    with _rewriting(path) as (config, write):
        change = plan_login(config, server, credentials)
        if change.call is not None:
            _run_helper(change.call, environ)
        write(change.config)
    if change.call is None:
        progress.warn(
            f"the password is stored unencrypted in {path}; a credential helper would keep it better "
            "(https://docs.docker.com/go/credential-store/)"
        )
    if environ.get("DOCKER_AUTH_CONFIG"):
        progress.warn("DOCKER_AUTH_CONFIG is set and goes before what is stored now")


def log_out(server: LoginServer, *, progress: Progress, environ: Mapping[str, str] | None = None) -> bool:
    """Forget a server's credentials; False if there were none. A helper that fails is a warning: the entry goes anyway."""
    environ = os.environ if environ is None else environ
    path = docker_config_path(environ)
    if not path.exists():
        return False
    with _rewriting(path) as (config, write):
        held = bool(choose_helper(config, host=server.host) and existing_login(server, progress=Silent(), environ=environ))
        change = plan_logout(config, server, held=held)
        if change.call is not None:
            try:
                _run_helper(change.call, environ)
            except HostError as error:
                progress.warn(error.message)
        if change.config is not None:
            write(change.config)
    return change.known


class _Given:
    """The credentials to be tried, and nothing else."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def find(self, *, host: str, repository: str = "") -> Credentials | None:  # noqa: ARG002 -- the session asks one host only
        return self._credentials


def _run_helper(call: HelperCall, environ: Mapping[str, str]) -> None:
    """Raises `HostError` (code ``credentials-not-stored``)."""
    program = f"docker-credential-{call.helper}"

    def failed(why: str, errno: int = 0) -> HostError:
        return HostError(
            f"{program} {call.action}: {why}",
            errno=errno,
            code="credentials-not-stored",
            remedy="repair the helper, or take it out of Docker's config.json",
        )

    try:
        done = subprocess.run(
            [program, call.action],
            input=call.text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_HELPER_SECONDS,
            check=False,
            env=dict(environ),
        )
    except subprocess.TimeoutExpired as error:
        raise failed(f"no answer in {_HELPER_SECONDS:g} s") from error
    except OSError as error:
        raise failed(error.strerror or str(error), error.errno or 0) from error
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        # It could repeat what it was given.
        shown = said[0][:200] if said and not any(part in said[0] for part in _secrets(call)) else ""
        raise failed(shown or f"exit status {done.returncode}")


def _secrets(call: HelperCall) -> tuple[str, ...]:
    if call.action != "store":
        return ()
    secret = str(json.loads(call.text)["Secret"])
    return (secret,) if secret else ()


@contextmanager
def _rewriting(path: HostPath) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """The file's content, and a function that replaces it; one process at a time."""
    directory = path.parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _not_stored(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            config = parse_docker_config(path.read_text(encoding="utf-8"), file=str(path))
        except FileNotFoundError:
            config = {}
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8", code="bad-docker-config") from error
        except OSError as error:
            raise _not_stored(path, error) from error
        yield config, lambda value: _replace(path, value)
    finally:
        os.close(descriptor)


def _replace(path: HostPath, config: Mapping[str, Any]) -> None:
    """Write aside and rename; a symlink's target is replaced, not the symlink."""
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(config, file, indent="\t")
                file.write("\n")
                file.flush()
                with suppress(OSError):  # root working on somebody's file
                    found = os.stat(target)
                    if stat.S_ISREG(found.st_mode):
                        os.fchown(file.fileno(), found.st_uid, found.st_gid)
                os.fsync(file.fileno())
            os.rename(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise _not_stored(path, error) from error


def _not_stored(path: HostPath, error: OSError) -> HostError:
    return HostError(
        "cannot store credentials",
        path=str(path),
        errno=error.errno or 0,
        code="credentials-not-stored",
        remedy="check who owns the file, or set DOCKER_CONFIG to a directory of your own",
    )
