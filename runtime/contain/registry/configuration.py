"""Which hosts speak for a registry: mirrors, plain HTTP, the order of trying. Values in, values out.

Reads the ``registries`` table of the configuration file (`read_configuration`); connects to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from types import MappingProxyType

from contain import configuration as configuration_file
from contain.annotations import Any
from contain.errors import UsageError
from contain.paths import HostPath
from contain.reference import DEFAULT_DOMAIN
from contain.values import dataclass, field

DOCKER_HUB_HOST = "registry-1.docker.io"
_DOCKER_HUB_NAMES = frozenset({DEFAULT_DOMAIN, "index.docker.io", DOCKER_HUB_HOST})
_MIRROR = re.compile(r"^(?:(https?)://)?((?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d+)?)((?:/[a-z0-9._/-]+)?)/?$")


def _no_mirrors() -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfiguration:
    """Mirrors by registry domain, in the order to try, each ``[http[s]://]host[:port][/prefix]``; and the hosts that may be
    spoken to without verified TLS, as Docker's ``insecure-registries``."""

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=_no_mirrors)
    insecure: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One host that can answer for a registry. ``schemes``: in the order to try.

    ``prefix`` stands before the repository's name on a mirror. ``mirror_of``: the domain that it mirrors, "" for the
    registry itself.
    """

    host: str
    schemes: tuple[str, ...]
    prefix: str = ""
    mirror_of: str = ""

    @property
    def source(self) -> str:
        """How results from here are named to people."""
        host = DEFAULT_DOMAIN if self.host == DOCKER_HUB_HOST else self.host
        return f"{host} (mirror of {self.mirror_of})" if self.mirror_of else host

    def repository(self, path: str) -> str:
        """The repository's name on this host."""
        return f"{self.prefix}/{path}" if self.prefix else path


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine by its very name: ``localhost``, ``127.0.0.0/8``, ``::1``."""
    name = bare_host(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def bare_host(host: str) -> str:
    """``host[:port]`` without the port and without the brackets of an IPv6 address, in lower case."""
    if host.startswith("[") and "]" in host:
        return host[1 : host.index("]")].lower()
    return (host if host.count(":") > 1 else host.split(":", 1)[0]).lower()


def plan_endpoints(domain: str, configuration: RegistryConfiguration) -> tuple[Endpoint, ...]:
    """Whom to ask for a domain: its mirrors as configured, then the registry itself.

    Plain HTTP is tried only after HTTPS, and only for hosts that are insecure by configuration, or loopback (as in Docker).
    A certificate that is there is verified also on loopback; only ``insecure`` switches that off.
    """
    found = []
    for text in configuration.mirrors.get(domain, ()):
        scheme, host, prefix = parse_mirror(text)
        schemes = (scheme,) if scheme else _schemes(host, configuration)
        found.append(Endpoint(host=host, schemes=schemes, prefix=prefix, mirror_of=domain))
    host = DOCKER_HUB_HOST if domain == DEFAULT_DOMAIN else domain
    return (*found, Endpoint(host=host, schemes=_schemes(host, configuration)))


def _schemes(host: str, configuration: RegistryConfiguration) -> tuple[str, ...]:
    return ("https", "http") if is_insecure(host, configuration) or is_loopback(host) else ("https",)


def is_insecure(host: str, configuration: RegistryConfiguration) -> bool:
    """Whether the configuration gives up verified TLS for ``host[:port]``."""
    names = _DOCKER_HUB_NAMES if host == DOCKER_HUB_HOST else {host}
    return not configuration.insecure.isdisjoint(names)


def parse_mirror(text: str) -> tuple[str, str, str]:
    """Scheme ("" if not written), host and prefix of a mirror. Raises `UsageError` (code ``bad-configuration``)."""
    match = _MIRROR.match(text)
    if match is None or ".." in text:
        raise UsageError(
            f"{text!r} is not a registry mirror", code="bad-configuration", remedy="write host[:port][/prefix], without /v2/"
        )
    return match[1] or "", match[2], match[3].strip("/")


def parse_configuration(registries: Mapping[str, Any], *, file: str) -> RegistryConfiguration:
    """The ``registries`` table: for each domain ``mirrors`` (list of strings) and ``insecure`` (true or false).

    Raises `UsageError` (code ``bad-configuration``) naming the setting.
    """

    def bad(domain: str, why: str) -> UsageError:
        return UsageError(f'{file}: [registries."{domain}"]: {why}', code="bad-configuration")

    mirrors: dict[str, tuple[str, ...]] = {}
    insecure = set()
    for written, table in registries.items():
        domain = DEFAULT_DOMAIN if written in _DOCKER_HUB_NAMES else written
        if not isinstance(table, dict):
            raise bad(written, "must be a table")
        if unknown := sorted(set(table) - {"mirrors", "insecure"}):
            raise bad(written, f"unknown setting {unknown[0]!r}; known: mirrors, insecure")
        texts = table.get("mirrors", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise bad(written, "mirrors must be a list of strings")
        if not isinstance(table.get("insecure", False), bool):
            raise bad(written, "insecure must be true or false")
        for text in texts:
            parse_mirror(text)
        if texts:
            mirrors[domain] = tuple(texts)
        if table.get("insecure"):
            insecure.add(domain)
    return RegistryConfiguration(mirrors=MappingProxyType(mirrors), insecure=frozenset(insecure))


def read_configuration(path: HostPath | None = None) -> RegistryConfiguration:
    """What the configuration file (default: `contain.configuration.configuration_path`) says about registries."""
    path = configuration_file.configuration_path() if path is None else path
    return parse_configuration(configuration_file.read_tables(path).get("registries", {}), file=str(path))
