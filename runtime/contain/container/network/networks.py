"""Named networks on disk: one record each below the store, which outlives containers and restarts of the machine.

``networks/NAME.json`` says what the network is: its subnets, options and labels. It is written aside and renamed, under a lock of
the directory, so of two commands that make one name or choose one subnet at once, one comes second and sees the first. What is in
use of a network (bridge, addresses) is a matter of the run directory (`contain.linux.network`). ``none``, ``host`` and ``bridge``
are always there and have no record.

Names, defaults and words: Docker's (``docker network create``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from contain.annotations import Any
from contain.container.network.predefined import PREDEFINED
from contain.errors import Conflict, NotFound, NotSupported, UsageError
from contain.linux.leases import BridgeSettings, Pool, choose_pool, decode_settings, encode_settings, number_of
from contain.paths import HostPath
from contain.store.durable import explained, held_lock, replaced
from contain.store.journal import note
from contain.values import dataclass, replace

DEFAULT_NETWORK_ID = ""
_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]*"
_LONGEST_NAME = 200
_ID_DIGITS = 64
_LARGEST_POOL_PREFIX = 30  # a network of two containers and the bridge's own address
_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")
_OPTION_MTU = "com.docker.network.driver.mtu"
_OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_OPTION_WITHIN = "com.docker.network.bridge.enable_icc"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """What ``contain network create`` was asked. ``subnets``, ``gateways`` and ``ranges`` may each hold one of IPv4 and one of
    IPv6."""

    name: str
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    internal: bool = False
    ipv6: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNetwork:
    """A network on record. ``created_seconds`` since the epoch."""

    settings: BridgeSettings
    created_seconds: float
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.settings.name

    @property
    def network_id(self) -> str:
        """64 hexadecimal digits."""
        return self.settings.network_id

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Its subnets."""
        return tuple(pool for pool in (self.settings.pool, self.settings.pool6) if pool is not None)


# Decisions


def check_network_name(name: str) -> str:
    """A name that a network may have, or `UsageError` in Docker's words, `Conflict` for one that is always there."""
    if not re.fullmatch(_NAME, name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{name or '(empty)'} includes invalid characters for a local network name, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            code="bad-network-name",
        )
    if name in (*PREDEFINED, "default", "container"):
        raise Conflict(f"operation is not permitted on predefined {name} network", code="network-predefined")
    return name


def plan_network(
    request: NetworkRequest, *, network_id: str, others: Sequence[NamedNetwork], choose: Callable[[], Pool | None]
) -> BridgeSettings:
    """A new network's settings. ``choose`` finds a free IPv4 subnet. Raises `UsageError`, `Conflict`, `NotSupported`."""
    pools: dict[int, Pool] = {}
    for text in request.subnets:
        pool = _parse_subnet(text)
        if pool.bits in pools:
            raise NotSupported(
                "several subnets of one IP version are not supported on a bridge network", code="network-option-not-supported"
            )
        pools[pool.bits] = pool
    if 32 not in pools:
        chosen = choose()
        if chosen is None:
            raise Conflict(
                "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
                remedy="name one with --subnet, or remove networks that are not needed: contain network prune",
                code="network-no-free-subnet",
            )
        pools[32] = chosen
    if 128 not in pools and request.ipv6:
        # RFC 4193: 40 bits that nobody else is likely to have, so that two machines' networks can be joined one day.
        pools[128] = Pool(base=0xFD << 120 | int(network_id[:10], 16) << 80, prefix=64, bits=128)
    for text in request.ranges:
        pools |= _with_range(pools, text)
    for text in request.gateways:
        pools |= _with_gateway(pools, text)
    for pool in pools.values():
        for other in others:
            for taken in other.pools:
                if taken.bits == pool.bits and taken.overlaps(pool.base, pool.prefix):
                    raise Conflict(
                        "Pool overlaps with other one on this address space",
                        remedy=f"{pool} and {taken} of the network {other.name} share addresses: choose another --subnet",
                        code="network-overlap",
                    )
    return _with_options(
        BridgeSettings(
            name=request.name,
            network_id=network_id,
            pool=pools[32],
            pool6=pools.get(128) if request.ipv6 or 128 in pools else None,
            fixed=bool(request.subnets),
            internal=request.internal,
            isolated=False,
        ),
        request.options,
    )


def _parse_subnet(text: str) -> Pool:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise UsageError(
            f"invalid subnet {text}: invalid CIDR address", code="bad-subnet", remedy="for example 172.28.0.0/16 or fd00:1::/64"
        ) from None
    if not isinstance(network, (IPv4Network, IPv6Network)) or "/" not in text:
        raise UsageError(f"invalid subnet {text}: invalid CIDR address", code="bad-subnet", remedy="for example 172.28.0.0/16")
    largest = _LARGEST_POOL_PREFIX if network.version == 4 else 126
    if not 8 <= network.prefixlen <= largest or network.is_multicast or network.is_loopback or network.is_unspecified:
        raise UsageError(
            f"invalid subnet {text}: it cannot be a network of containers", code="bad-subnet", remedy=f"from /8 to /{largest}"
        )
    bits = network.max_prefixlen
    return Pool(base=int(network.network_address), prefix=network.prefixlen, bits=bits)


def _pool_with(pools: dict[int, Pool], bits: int, base: int, prefix: int, what: str, text: str) -> Pool:
    pool = pools.get(bits)
    if pool is None or prefix < pool.prefix or not pool.overlaps(base, prefix):
        raise UsageError(
            f"no matching subnet for {what} {text}", code="bad-subnet", remedy="give the --subnet that it is a part of as well"
        )
    return pool


def _with_range(pools: dict[int, Pool], text: str) -> dict[int, Pool]:
    try:
        part = ip_network(text, strict=False)
    except ValueError:
        raise UsageError(f"invalid CIDR block address {text} found in range", code="bad-subnet") from None
    bits = part.max_prefixlen
    pool = _pool_with(pools, bits, int(part.network_address), part.prefixlen, "ip-range", text)
    changed = replace(pool, range_base=int(part.network_address), range_prefix=part.prefixlen)
    if changed.last < changed.first:
        raise UsageError(f"no address of ip-range {text} is free for containers", code="bad-subnet", remedy="give a larger one")
    return {bits: changed}


def _with_gateway(pools: dict[int, Pool], text: str) -> dict[int, Pool]:
    try:
        address = ip_address(text)
    except ValueError:
        raise UsageError(f"invalid gateway address {text}", code="bad-subnet") from None
    bits = address.max_prefixlen
    pool = _pool_with(pools, bits, int(address), bits, "gateway", text)
    if not pool.holds(int(address)):
        raise UsageError(
            f"no matching subnet for gateway {text}", code="bad-subnet", remedy="not a subnet's first or last address"
        )
    return {bits: replace(pool, router=int(address))}


def _with_options(settings: BridgeSettings, options: Sequence[tuple[str, str]]) -> BridgeSettings:
    for name, value in options:
        if name == _OPTION_MTU:
            if not (value.isascii() and value.isdigit() and 1280 <= int(value) <= 65535):
                raise UsageError(f"invalid value {value!r} for {name}", code="bad-network-option", remedy="from 1280 to 65535")
            settings = replace(settings, mtu_bytes=int(value))
        elif name in (_OPTION_MASQUERADE, _OPTION_WITHIN):
            if value.lower() not in (*_TRUE, *_FALSE):
                raise UsageError(f"invalid value {value!r} for {name}", code="bad-network-option", remedy="true or false")
            on = value.lower() in _TRUE
            settings = replace(settings, masquerade=on) if name == _OPTION_MASQUERADE else replace(settings, isolated=not on)
        else:
            raise NotSupported(
                f"the network option {name} is not supported",
                code="network-option-not-supported",
                remedy=f"there are {_OPTION_MTU}, {_OPTION_MASQUERADE} and {_OPTION_WITHIN}",
            )
    return settings


def no_such_network(name: str) -> NotFound:
    """In Docker's words."""
    return NotFound(f"network {name} not found", code="no-such-network", remedy="`contain network ls` lists them")


# The directory


class Networks:
    """The directory of named networks."""

    def __init__(self, home: HostPath) -> None:
        self.directory = home / "networks"

    def _place(self, name: str) -> HostPath:
        return self.directory / f"{name}.json"

    def _load(self, name: str) -> NamedNetwork | None:
        try:
            value = json.loads(self._place(name).read_text())
            return NamedNetwork(
                settings=decode_settings(value["settings"]),
                created_seconds=float(value["created_seconds"]),
                labels=_pairs(value["labels"]),
                options=_pairs(value["options"]),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def all(self) -> tuple[NamedNetwork, ...]:
        """Every network on record, sorted by name."""
        try:
            names = sorted(name.removesuffix(".json") for name in os.listdir(self.directory) if _is_record(name))
        except FileNotFoundError:
            return ()
        return tuple(record for record in map(self._load, names) if record is not None)

    def find(self, text: str) -> NamedNetwork:
        """By name, id, or unique beginning of an id. `NotFound` in Docker's words, `Conflict` for an ambiguous beginning."""
        if re.fullmatch(_NAME, text):
            record = self._load(text)
            if record is not None:
                return record
        found = [record for record in self.all() if text and record.network_id.startswith(text)]
        if len(found) > 1:
            raise Conflict(f"network {text} is ambiguous ({len(found)} matches found on ID prefix)", code="ambiguous-id")
        if not found:
            raise no_such_network(text)
        return found[0]

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        with explained(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with held_lock(self.directory / ".lock"):
                yield

    def create(self, request: NetworkRequest) -> NamedNetwork:
        """Make a network; nothing of it is set up before its first container. `Conflict` if the name or a subnet is taken."""
        check_network_name(request.name)
        network_id = os.urandom(_ID_DIGITS // 2).hex()
        with self._naming():
            others = self.all()
            if any(other.name == request.name for other in others):
                raise Conflict(
                    f"network with name {request.name} already exists",
                    code="network-exists",
                    remedy=f"use it, or remove it: contain network rm {request.name}",
                )
            settings = plan_network(
                request,
                network_id=network_id,
                others=others,
                choose=lambda: _choose([pool for other in others for pool in other.pools]),
            )
            record = NamedNetwork(
                settings=settings,
                created_seconds=time.time(),
                labels=request.labels,
                options=request.options,
            )
            with replaced(self._place(request.name), mode=0o600) as file:
                file.write(_encode(record))
        self._note("create", record)
        return record

    def _note(self, action: str, record: NamedNetwork) -> None:
        note(self.directory.parent, "network", action, record.network_id, {"name": record.name, "type": "bridge"})

    def remove(
        self, record: NamedNetwork, users: Callable[[NamedNetwork], Sequence[tuple[str, str]]], forget: Callable[[], None]
    ) -> None:
        """Forget a network. ``users``: who is on it, (name, id); ``forget``: what else is to go then. `Conflict` in Docker's words if
        somebody is on it."""
        with self._naming():
            active = users(record)
            if active:
                who = ", ".join(f'name:"{name}" id:"{container_id[:12]}"' for name, container_id in active)
                raise Conflict(
                    f"error while removing network: network {record.name} has active endpoints ({who})",
                    code="network-in-use",
                    remedy="stop these containers, or `contain network disconnect` them",
                )
            with contextlib.suppress(FileNotFoundError):
                self._place(record.name).unlink()
            forget()
        self._note("destroy", record)


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _pairs(value: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), str(text)) for key, text in value.items())


def _encode(record: NamedNetwork) -> bytes:
    value: dict[str, Any] = {
        "settings": encode_settings(record.settings),
        "created_seconds": record.created_seconds,
        "labels": dict(record.labels),
        "options": dict(record.options),
    }
    return json.dumps(value).encode()


def _choose(reserved: Sequence[Pool]) -> Pool | None:
    """A subnet that this machine has no route to at the moment, and none of its networks has."""
    from contain.linux import rtnetlink
    from contain.linux.resolver import host_servers

    with rtnetlink.NetlinkSocket() as kernel:
        routes = [rtnetlink.parse_route(payload) for payload in kernel.transact((rtnetlink.list_routes(),))[0]]
    # The default network's own, which may have no bridge now, comes first of all candidates: it stays free for that.
    kept = choose_pool((), ())
    return choose_pool(routes, [number_of(server) for server in host_servers()], [*reserved, *([kept] if kept else [])])
