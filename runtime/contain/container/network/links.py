"""``--link``: what a container is told of another one in its variables and its ``/etc/hosts``. Pure.

On the default network a link opens the way to the other container as well (`contain.linux.network`); on a named network it is one
more name for it, which only this container uses. Source of forms and names: Docker's "Legacy container links".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from contain.errors import UsageError
from contain.values import dataclass

_PORT = r"(\d+)/(tcp|udp)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """Another container as a link shows it. ``exposed``: its ports, as ``80/tcp``; ``environment``: its own variables."""

    alias: str
    container_id: str
    name: str
    hostname: str
    address: str
    exposed: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


def parse_link(text: str) -> tuple[str, str]:
    """``CONTAINER:ALIAS`` or ``CONTAINER`` as (container, alias). Raises `UsageError`."""
    name, colon, alias = text.partition(":")
    if not name or (colon and not alias) or ":" in alias:
        raise UsageError(f"bad format for links: {text}", code="bad-link", remedy="write --link CONTAINER:ALIAS")
    return name.removeprefix("/"), (alias or name).removeprefix("/").rsplit("/", 1)[-1]


def link_variables(own_name: str, linked: Linked) -> tuple[tuple[str, str], ...]:
    """The variables that tell of one link, lowest port first."""
    prefix = linked.alias.replace("-", "_").upper()
    ports = sorted(
        ((int(match[1]), match[2]) for text in linked.exposed if (match := re.fullmatch(_PORT, text))),
        key=lambda port: (port[1], port[0]),
    )
    found: list[tuple[str, str]] = []
    if ports:
        number, protocol = ports[0]
        found.append((f"{prefix}_PORT", f"{protocol}://{linked.address}:{number}"))
    for number, protocol in ports:
        name = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [
            (name, f"{protocol}://{linked.address}:{number}"),
            (f"{name}_ADDR", linked.address),
            (f"{name}_PORT", str(number)),
            (f"{name}_PROTO", protocol),
        ]
    found.append((f"{prefix}_NAME", f"/{own_name}/{linked.alias}"))
    found += [(f"{prefix}_ENV_{name}", value) for name, value in linked.environment if name not in ("HOME", "PATH", "HOSTNAME")]
    return tuple(found)


def link_hosts(linked: Sequence[Linked]) -> tuple[tuple[str, str], ...]:
    """Lines for ``/etc/hosts``: (names, address)."""
    found = []
    for each in linked:
        names = dict.fromkeys((each.alias, each.hostname, each.name))
        found.append((" ".join(names), each.address))
    return tuple(found)
