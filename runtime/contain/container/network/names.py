"""Which names a container's networks know, and which addresses belong to them. Decides from the lease files' records; pure but for
`LeaseFiles`, which reads those files again when they have changed.

A container is found by its name, its aliases on the network, the first 12 digits of its id, its own host name, and by
``NAME.NETWORK``; by others only on a network that both are on. Names beat those of the world outside, as with Docker. Nothing is
cached in between: who comes is found at once, who goes is not found any more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from contain.linux.bridges import bridge_homes
from contain.linux.leases import Lease, NetworkRecord, decode_record, dotted, number_of, number_of6, text_of
from contain.paths import HostPath
from contain.values import dataclass

_SHORT_ID = 12
_REVERSE4, _REVERSE6 = ".in-addr.arpa", ".ip6.arpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A name that is known here. Either list may be empty: then it has no address of that kind."""

    addresses: tuple[str, ...]
    addresses6: tuple[str, ...]


def names_of(container_id: str, lease: Lease) -> tuple[str, ...]:
    """By which names others on its network find a container, in small letters."""
    return tuple(name.lower() for name in (lease.name, *lease.aliases, container_id[:_SHORT_ID]) if name)


def own_networks(records: Sequence[NetworkRecord], container_id: str) -> list[NetworkRecord]:
    """Those networks with names that a container is on."""
    return [record for record in records if record.settings.network_id and container_id in record.leases]


def resolve_name(records: Sequence[NetworkRecord], container_id: str, name: str) -> Found | None:
    """What a container means by a name; None if none of its networks knows it. Of several networks that know it, the first."""
    networks = own_networks(records, container_id)
    for record in networks:
        found = _find_on(record, record.leases[container_id], name)
        if not found and name.endswith(suffix := f".{record.settings.name.lower()}"):
            found = _find_on(record, record.leases[container_id], name.removesuffix(suffix))
        if found:
            return Found(
                addresses=tuple(dotted(lease.address) for lease in found),
                addresses6=tuple(text_of(lease.address6, 128) for lease in found if lease.address6),
            )
    return None


def _find_on(record: NetworkRecord, own: Lease, name: str) -> list[Lease]:
    if not name:
        return []
    linked = {target for alias, target in own.links if alias.lower() == name}
    if linked:
        return [lease for container_id, lease in record.leases.items() if container_id in linked]
    return [lease for container_id, lease in record.leases.items() if name in names_of(container_id, lease)]


def resolve_pointer(records: Sequence[NetworkRecord], container_id: str, name: str) -> str | None:
    """The name that belongs to the address in ``4.3.2.1.in-addr.arpa``; "" for an address of the container's networks that nobody
    has, None for one that is none of theirs."""
    address = parse_reverse(name)
    if address is None:
        return None
    bits, number = address
    for record in own_networks(records, container_id):
        pool = record.pool if bits == 32 else record.settings.pool6
        if pool is None or not pool.overlaps(number, bits):
            continue
        for other, lease in record.leases.items():
            if number == (lease.address if bits == 32 else lease.address6):
                return f"{lease.name or other[:_SHORT_ID]}.{record.settings.name}"
        return ""
    return None


def parse_reverse(name: str) -> tuple[int, int] | None:
    """Bits and number of the address that a name of the reverse tree stands for (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    try:
        if name.endswith(_REVERSE4):
            parts = name.removesuffix(_REVERSE4).split(".")
            return (32, number_of(".".join(reversed(parts)))) if len(parts) == 4 else None
        if name.endswith(_REVERSE6):
            digits = "".join(reversed(name.removesuffix(_REVERSE6).split(".")))
            if len(digits) != 32:
                return None
            return 128, number_of6(":".join(digits[place : place + 4] for place in range(0, 32, 4)))
    except OSError:
        return None
    return None


def is_closed(records: Sequence[NetworkRecord], container_id: str) -> bool:
    """Whether all networks of a container are internal: then names of the world outside are not its business either."""
    networks = [record for record in records if container_id in record.leases]
    return bool(networks) and all(record.settings.internal for record in networks)


class LeaseFiles:
    """The lease files of all networks of a run directory, each read again only when it was replaced."""

    def __init__(self, run_home: HostPath) -> None:
        self._run_home = run_home
        self._read: dict[str, tuple[tuple[int, int, int], NetworkRecord]] = {}

    def records(self) -> list[NetworkRecord]:
        """What they say at this moment."""
        found = []
        known, self._read = self._read, {}
        for home in bridge_homes(self._run_home):
            path = os.path.join(home, "network.json")
            try:
                status = os.stat(path)
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
                if path not in known or known[path][0] != stamp:
                    with open(path, "rb") as file:
                        known[path] = (stamp, decode_record(file.read()) or NetworkRecord())
            except OSError:
                continue
            self._read[path] = known[path]
            found.append(known[path][1])
        return found
