"""What a build gives its RUN instructions: secrets, ssh agents, permissions, network, hosts, limits. Values, and how flags spell them.

Pure: text to value. Nothing is read and nothing is looked up in the environment here. The formats are Docker's: ``docker buildx build
--help``, buildx ``util/buildflags/{secrets,ssh,entitlements}.go``, docker/cli ``opts/{hosts,ulimit}.go``.
"""

from __future__ import annotations

import csv
import ipaddress
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from contain.dockerfile.literals import parse_size_bytes
from contain.dockerfile.suggestion import suggest
from contain.errors import UsageError
from contain.spec import SHARED_MEMORY_BYTES, ResourceLimit
from contain.values import dataclass, field

NETWORK_HOST = "network.host"
SECURITY_INSECURE = "security.insecure"
DEFAULT_SSH = "default"
_ENTITLEMENTS = (NETWORK_HOST, SECURITY_INSECURE)
_NETWORKS = ("default", "none", "host")
_HOST_GATEWAY = "host-gateway"
_RESOURCES = (
    *("as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile"),
    *("nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSource:
    """Where a secret comes from: a file, or a variable of the caller. Neither: a variable of the secret's name if there is one, else
    a file of that name."""

    id: str
    path: str = ""
    variable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSource:
    """Which agent answers: the caller's ``$SSH_AUTH_SOCK`` (no paths), a socket, or one that holds the given private keys."""

    id: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """``allowed``: what RUN may ask for beyond the usual. ``network``: of each RUN that names none."""

    secrets: Mapping[str, SecretSource] = field(default_factory=lambda: MappingProxyType({}))
    ssh: Mapping[str, SshSource] = field(default_factory=lambda: MappingProxyType({}))
    allowed: frozenset[str] = frozenset()
    network: str = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    shared_memory_bytes: int = SHARED_MEMORY_BYTES
    resource_limits: tuple[ResourceLimit, ...] = ()


def _bad(message: str, remedy: str = "") -> UsageError:
    return UsageError(message, code="bad-arguments", remedy=remedy)


def parse_secret(text: str) -> SecretSource:
    """``id=NAME``, with ``src=FILE`` or ``env=VARIABLE``; ``type=file|env`` says which of both ``src`` means."""
    usage = "write --secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE"
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _bad(f"cannot read --secret {text!r}: {error}", usage) from error
    values: dict[str, str] = {}
    for part in rows[0] if rows else ():
        key, separator, value = part.partition("=")
        key = {"source": "src"}.get(key.lower(), key.lower())
        if not separator or key not in ("type", "id", "src", "env"):
            raise _bad(f"--secret has no field {part!r}", usage)
        values[key] = value
    kind = values.get("type", "")
    if kind not in ("", "file", "env"):
        raise _bad(f"a secret's type cannot be {kind!r}", "it is file or env")
    if not values.get("id"):
        raise _bad(f"--secret {text!r} has no id", usage)
    path, variable = values.get("src", ""), values.get("env", "")
    if kind == "env" and not variable:
        path, variable = "", path
    if path and variable:
        raise _bad(f"the secret {values['id']!r} cannot come from a file and from a variable", usage)
    if kind == "file" and variable:
        raise _bad(f"the secret {values['id']!r} is of type file and names a variable", usage)
    return SecretSource(id=values["id"], path=path, variable=variable)


def parse_ssh(text: str) -> SshSource:
    """``default``, ``ID``, or ``ID=SOCKET`` or ``ID=KEY[,KEY...]``."""
    name, separator, rest = text.partition("=")
    paths = tuple(rest.split(",")) if separator else ()
    if not name or not all(paths):
        raise _bad(f"cannot read --ssh {text!r}", "write --ssh default, --ssh ID=SOCKET, or --ssh ID=KEY,KEY")
    for path in paths:
        if path.startswith("raw="):
            raise _bad("--ssh ...,raw=true is not supported", "sockets that are no ssh agent's are not forwarded")
    return SshSource(id=name, paths=paths)


def parse_entitlements(values: Iterable[str]) -> frozenset[str]:
    """The values of ``--allow``, each perhaps several with commas between them."""
    found = {part.strip() for value in values for part in value.split(",")}
    for name in sorted(found):
        if name not in _ENTITLEMENTS:
            near = suggest(name, _ENTITLEMENTS)
            raise _bad(
                f"--allow {name!r} is not supported",
                f"did you mean {near}?" if near else "known are " + ", ".join(_ENTITLEMENTS),
            )
    return frozenset(found)


def parse_build_network(text: str) -> str:
    """``--network``: default, none or host. A network of its own for a build is not supported."""
    if text not in _NETWORKS:
        near = suggest(text, _NETWORKS)
        raise _bad(
            f"--network {text!r} is not supported for a build",
            f"did you mean {near}?" if near else "it is default, none or host",
        )
    return text


def parse_extra_host(text: str) -> tuple[str, str]:
    """``NAME:ADDRESS`` or ``NAME=ADDRESS``; the address may be in brackets, or ``host-gateway``."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    address = address.removeprefix("[").removesuffix("]")
    if not name or not separator or any(character.isspace() for character in name):
        raise _bad(f"cannot read --add-host {text!r}", "write --add-host NAME:ADDRESS")
    if address != _HOST_GATEWAY:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise _bad(f"--add-host {text!r}: {address!r} is no IP address", "write --add-host NAME:ADDRESS") from None
    return name, address


def parse_resource_limit(text: str) -> ResourceLimit:
    """``NAME=SOFT[:HARD]``; -1 is no limit."""
    name, separator, rest = text.partition("=")
    soft, _, hard = rest.partition(":")
    if name not in _RESOURCES:
        near = suggest(name, _RESOURCES)
        raise _bad(f"--ulimit has no {name!r}", f"did you mean {near}?" if near else "known are " + ", ".join(_RESOURCES))
    try:
        numbers = (int(soft), int(hard) if hard else int(soft))
    except ValueError:
        numbers = (-2, -2)
    if not separator or min(numbers) < -1 or (numbers[1] != -1 and (numbers[0] == -1 or numbers[0] > numbers[1])):
        raise _bad(f"cannot read --ulimit {text!r}", "write --ulimit NAME=SOFT:HARD, the soft limit not above the hard one")
    return ResourceLimit(name=name, soft=numbers[0], hard=numbers[1])


def parse_shared_memory(text: str) -> int:
    """``--shm-size``, in bytes."""
    size_bytes = parse_size_bytes(text)
    if size_bytes <= 0:
        raise _bad("--shm-size must be more than 0")
    return size_bytes
