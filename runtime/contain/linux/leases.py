"""Which container has which address: pools, leases, and the file that all processes of one bridge share.

Decides (pure) which subnet and which address are free; keeps the decision in ``network.json`` below the bridge's directory, under a
lock. Never talks to the kernel about networks: `contain.linux.network` does, and writes the lease before it makes a link. The file is
also what names are resolved from (`contain.container.network.names`), so a lease says by which names its container is known.

The lock is flock(2) itself, not the filelock library, whose import (50 ms) would cost more than attaching a container.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from contain.annotations import Any
from contain.errors import Conflict, HostError, UsageError
from contain.linux.rtnetlink import Route
from contain.paths import HostPath
from contain.values import dataclass, field, replace

DEFAULT_MTU_BYTES = 1500

_RECORD_VERSION = 1
_LOCK_TIMEOUT_SECONDS = 60.0


# Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A subnet for containers, of IPv4 (``bits`` 32) or IPv6 (128). The bridge has its first address, or ``router``; containers get
    theirs from all of it, or from the part ``range_base``/``range_prefix``."""

    base: int
    prefix: int
    bits: int = 32
    router: int | None = None
    range_base: int | None = None
    range_prefix: int = 0

    @property
    def gateway(self) -> int:
        """The bridge's own address."""
        return self.base + 1 if self.router is None else self.router

    @property
    def end(self) -> int:
        """The subnet's last address, which IPv4 uses for broadcasts."""
        return self.base + (1 << (self.bits - self.prefix)) - 1

    @property
    def first(self) -> int:
        """The first address that a container may have."""
        if self.range_base is not None:
            return max(self.range_base, self.base + 1)
        return self.base + (2 if self.gateway == self.base + 1 else 1)

    @property
    def last(self) -> int:
        """The last address that a container may have."""
        last = self.end - (self.bits == 32)
        if self.range_base is None:
            return last
        return min(last, self.range_base + (1 << (self.bits - self.range_prefix)) - 1)

    def holds(self, address: int) -> bool:
        """Whether an address is one of the subnet's that a container or the bridge may have."""
        return self.base < address <= self.end - (self.bits == 32)

    def overlaps(self, base: int, prefix: int) -> bool:
        """Whether a subnet shares addresses with this one."""
        shift = self.bits - min(self.prefix, prefix)
        return self.base >> shift == base >> shift

    def __str__(self) -> str:
        return f"{text_of(self.base, self.bits)}/{self.prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSettings:
    """What one bridge is to be. Without ``pool`` a free subnet is chosen, and another one in its place if it is not ``fixed`` and
    somebody else has it by then; ``pool6``: containers get an IPv6 address too.
    ``internal``: no way in or out. ``isolated``: containers on it do not reach each other. ``masquerade``: they leave the machine under
    its own address."""

    name: str = "bridge"
    network_id: str = ""
    pool: Pool | None = None
    pool6: Pool | None = None
    fixed: bool = False
    internal: bool = False
    isolated: bool = True
    masquerade: bool = True
    mtu_bytes: int = 0  # 0: that of the machine's way out


DEFAULT_SETTINGS = BridgeSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told apart from a later one with the same number by its start time in clock ticks since boot."""

    process_id: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port of this machine that is a container's. ``host_address`` 0.0.0.0 or ``::``: any address of this machine."""

    protocol: str  # tcp or udp
    host_address: str
    host_port: int
    container_port: int

    @property
    def is_ipv6(self) -> bool:
        """Whether it is published at an IPv6 address."""
        return ":" in self.host_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a container asks of a bridge: addresses of its own choice ("" leaves the choice), its interface's name inside, by which
    names others on the bridge find it (``name`` first), and ``links``: (alias, container id) of those that it knows by other names."""

    interface: str = "eth0"
    address: str = ""
    address6: str = ""
    hardware_address: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One container's addresses, the process that asked for them, what is published of it, and its names. ``address6`` 0: none."""

    address: int
    owner: Owner
    ports: tuple[PublishedPort, ...] = ()
    address6: int = 0
    interface: str = "eth0"
    hardware_address: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """The lease file. ``pool``: the subnet in use. ``holds``: processes that keep the bridge although they have no container at the
    moment."""

    pool: Pool | None = None
    mtu_bytes: int = DEFAULT_MTU_BYTES
    newest_address: int = 0
    leases: Mapping[str, Lease] = field(default_factory=dict)
    holds: tuple[Owner, ...] = ()
    settings: BridgeSettings = DEFAULT_SETTINGS


# Decisions


def dotted(address: int) -> str:
    """An IPv4 address as text."""
    return socket.inet_ntoa(address.to_bytes(4, "big"))


def number_of(address: str) -> int:
    """An IPv4 address as a number; OSError if it is none."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")


def text_of(address: int, bits: int) -> str:
    """An address as text."""
    if bits == 32:
        return dotted(address)
    return socket.inet_ntop(socket.AF_INET6, address.to_bytes(16, "big"))


def number_of6(address: str) -> int:
    """An IPv6 address as a number; OSError if it is none."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET6, address), "big")


def choose_pool(routes: Sequence[Route], avoid: Collection[int], reserved: Collection[Pool] = ()) -> Pool | None:
    """The first subnet that overlaps no route of the host and no reserved one, and holds no address to avoid; None if all are taken.

    Candidates are Docker's default pools (172.17 to 172.31 as /16, then 192.168.0.0/16 in /20), from the other end, so that a
    Docker started later finds its own free. Routes wider than /8 are ways to everywhere (VPNs split the default route in two).
    """
    second_bytes = (30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 31, 17)
    candidates = [Pool(base=172 << 24 | second << 16, prefix=16) for second in second_bytes]
    candidates += [Pool(base=192 << 24 | 168 << 16 | third << 8, prefix=20) for third in range(240, -1, -16)]
    taken = [(route.destination, route.prefix_length) for route in routes if route.prefix_length >= 8]
    taken += [(address, 32) for address in avoid]
    taken += [(pool.base, pool.prefix) for pool in reserved if pool.bits == 32]
    for pool in candidates:
        if not any(pool.overlaps(base, prefix) for base, prefix in taken):
            return pool
    return None


def lease_address(
    record: NetworkRecord,
    container_id: str,
    owner: Owner,
    ports: tuple[PublishedPort, ...] = (),
    wanted: Wanted | None = None,
) -> NetworkRecord:
    """The record with addresses for the container: those it has, those it wants, else the next free ones after the newest, so that
    an address rests as long as possible before it is used again. Raises `HostError` when all are taken, `Conflict` when a wanted one
    is, `UsageError` when it is none of the network's."""
    assert record.pool is not None
    wanted = wanted or Wanted()
    known = record.leases.get(container_id)
    newest = record.newest_address
    if known is not None:
        address, address6 = known.address, known.address6
    else:
        pool, pool6 = record.pool, record.settings.pool6
        used = {lease.address for lease in record.leases.values()}
        address = _take_wanted(pool, used, wanted.address) or _next_free(pool, used, newest)
        address6 = 0
        if pool6 is not None:
            used6 = {lease.address6 for lease in record.leases.values()}
            newest6 = max((each for each in used6 if pool6.first <= each <= pool6.last), default=0)
            address6 = _take_wanted(pool6, used6, wanted.address6) or _next_free(pool6, used6, newest6)
        elif wanted.address6:
            raise UsageError(
                f"Invalid address {wanted.address6}: It does not belong to any of this network's subnets",
                code="bad-address",
                remedy="make the network with --ipv6",
            )
        if not wanted.address:
            newest = address
    lease = Lease(
        address=address,
        owner=owner,
        ports=ports,
        address6=address6,
        interface=wanted.interface,
        hardware_address=wanted.hardware_address,
        name=wanted.name,
        aliases=wanted.aliases,
        links=wanted.links,
    )
    return replace(record, newest_address=newest, leases={**record.leases, container_id: lease})


def _take_wanted(pool: Pool, used: Collection[int], text: str) -> int:
    """A wanted address as a number; 0 if none is wanted."""
    if not text:
        return 0
    try:
        address = number_of(text) if pool.bits == 32 else number_of6(text)
    except OSError:
        raise UsageError(f"invalid IP address: {text}", code="bad-address") from None
    if not pool.holds(address):
        raise UsageError(
            f"Invalid address {text}: It does not belong to any of this network's subnets",
            code="bad-address",
            remedy=f"choose one of {pool}",
        )
    if address in used or address == pool.gateway:
        raise Conflict(
            "Address already in use", code="address-in-use", remedy=f"{text} is another container's or the network's own"
        )
    return address


def _next_free(pool: Pool, used: Collection[int], newest: int) -> int:
    size = pool.last - pool.first + 1
    taken = {*used, pool.gateway}
    start = newest + 1 - pool.first if pool.first <= newest < pool.last else 0
    tries = min(size, len(taken) + 1)  # so many cannot all be taken, unless all there are
    for step in range(tries):
        candidate = pool.first + (start + step) % size
        if candidate not in taken:
            return candidate
    raise HostError(
        f"all {size - (pool.first <= pool.gateway <= pool.last)} addresses of the network {pool} are in use",
        remedy="remove containers that are not needed: contain rm",
        code="network-addresses-exhausted",
    )


# The file


def _encode_pool(pool: Pool | None) -> list[Any] | None:
    if pool is None:
        return None
    plain: list[Any] = [text_of(pool.base, pool.bits), pool.prefix]
    if (pool.router, pool.range_base) == (None, None):
        return plain
    router = None if pool.router is None else text_of(pool.router, pool.bits)
    return [*plain, router, None if pool.range_base is None else [text_of(pool.range_base, pool.bits), pool.range_prefix]]


def _decode_pool(value: list[Any] | None) -> Pool | None:
    if value is None:
        return None
    base, prefix, router, part = (*value, None, None)[:4]
    read, bits = (number_of6, 128) if ":" in base else (number_of, 32)
    return Pool(
        base=read(base),
        prefix=int(prefix),
        bits=bits,
        router=None if router is None else read(router),
        range_base=None if part is None else read(part[0]),
        range_prefix=0 if part is None else int(part[1]),
    )


def encode_settings(settings: BridgeSettings) -> dict[str, Any]:
    """Settings as JSON values."""
    return {
        "name": settings.name,
        "network_id": settings.network_id,
        "pool": _encode_pool(settings.pool),
        "pool6": _encode_pool(settings.pool6),
        "fixed": settings.fixed,
        "internal": settings.internal,
        "isolated": settings.isolated,
        "masquerade": settings.masquerade,
        "mtu_bytes": settings.mtu_bytes,
    }


def decode_settings(value: Mapping[str, Any]) -> BridgeSettings:
    """What `encode_settings` wrote. Raises ValueError, KeyError, TypeError or OSError for anything else."""
    return BridgeSettings(
        name=str(value["name"]),
        network_id=str(value["network_id"]),
        pool=_decode_pool(value["pool"]),
        pool6=_decode_pool(value["pool6"]),
        fixed=bool(value["fixed"]),
        internal=bool(value["internal"]),
        isolated=bool(value["isolated"]),
        masquerade=bool(value["masquerade"]),
        mtu_bytes=int(value["mtu_bytes"]),
    )


def _encode_lease(lease: Lease) -> list[Any]:
    return [
        dotted(lease.address),
        lease.owner.process_id,
        lease.owner.start_ticks,
        [[port.protocol, port.host_address, port.host_port, port.container_port] for port in lease.ports],
        {
            "address6": text_of(lease.address6, 128) if lease.address6 else "",
            "interface": lease.interface,
            "hardware_address": lease.hardware_address,
            "name": lease.name,
            "aliases": lease.aliases,
            "links": lease.links,
        },
    ]


def _decode_lease(value: list[Any]) -> Lease:
    address, process, start, *rest = value
    ports = rest[0] if rest else ()
    more = rest[1] if len(rest) > 1 else {}
    return Lease(
        address=number_of(address),
        owner=Owner(process_id=int(process), start_ticks=int(start)),
        ports=tuple(
            PublishedPort(protocol=str(protocol), host_address=str(host), host_port=int(port), container_port=int(inner))
            for protocol, host, port, inner in ports
        ),
        address6=number_of6(more["address6"]) if more.get("address6") else 0,
        interface=str(more.get("interface", "eth0")),
        hardware_address=str(more.get("hardware_address", "")),
        name=str(more.get("name", "")),
        aliases=tuple(map(str, more.get("aliases", ()))),
        links=tuple((str(alias), str(target)) for alias, target in more.get("links", ())),
    )


def encode_record(record: NetworkRecord) -> bytes:
    """The file's bytes for a record (JSON)."""
    return json.dumps(
        {
            "version": _RECORD_VERSION,
            "pool": _encode_pool(record.pool),
            "mtu_bytes": record.mtu_bytes,
            "newest_address": dotted(record.newest_address),
            "leases": {name: _encode_lease(lease) for name, lease in record.leases.items()},
            "holds": [[hold.process_id, hold.start_ticks] for hold in record.holds],
            "settings": encode_settings(record.settings),
        }
    ).encode()


def decode_record(data: bytes) -> NetworkRecord | None:
    """None if the bytes are no record of this version, as after a power failure."""
    try:
        value = json.loads(data)
        if value["version"] != _RECORD_VERSION:
            return None
        return NetworkRecord(
            pool=_decode_pool(value["pool"]),
            mtu_bytes=int(value["mtu_bytes"]),
            newest_address=number_of(value["newest_address"]),
            leases={str(name): _decode_lease(lease) for name, lease in value["leases"].items()},
            holds=tuple(Owner(process_id=int(process), start_ticks=int(start)) for process, start in value["holds"]),
            settings=decode_settings(value["settings"]) if "settings" in value else DEFAULT_SETTINGS,
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError):
        return None


class Ledger:
    """The lease file and its lock. Usable only between `__enter__` and `__exit__`, when the lock is held."""

    def __init__(self, run_home: HostPath) -> None:
        self._directory = os.fspath(run_home)
        self._path = os.path.join(self._directory, "network.json")
        self._lock = -1

    def exists(self) -> bool:
        """Whether anything may be set up: the file is written before anything else is made and removed after all is gone."""
        return os.path.exists(self._path)

    def __enter__(self) -> Ledger:
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._lock = os.open(os.path.join(self._directory, "network.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(
                "cannot keep the network's records",
                call="open",
                path=str(error.filename or self._directory),
                errno=error.errno or 0,
                remedy="make the run directory writable",
                code="network-records",
            ) from error
        try:
            _acquire(self._lock, self._directory)
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # not by close alone: a child forked meanwhile would keep it
        os.close(self._lock)

    def read(self) -> NetworkRecord:
        """The record; an empty one if there is none or what is there cannot be read."""
        try:
            with open(self._path, "rb") as file:
                return decode_record(file.read()) or NetworkRecord()
        except FileNotFoundError:
            return NetworkRecord()

    def write(self, record: NetworkRecord) -> None:
        """Replace the record in one step. Raises `HostError`."""
        try:
            with open(self._path + ".new", "wb") as file:
                file.write(encode_record(record))
            os.replace(self._path + ".new", self._path)
        except OSError as error:
            raise HostError(
                "cannot keep the network's records",
                call="write",
                path=self._path,
                errno=error.errno or 0,
                remedy="free space in the run directory",
                code="network-records",
            ) from error

    def remove(self) -> None:
        """Forget everything: nothing is set up any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _acquire(descriptor: int, what: str) -> None:
    """flock(2) with an end to the waiting: a stopped process must not stop all others for ever."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    pause_seconds = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise HostError(
                    f"another process has held the network's lock for {_LOCK_TIMEOUT_SECONDS:.0f} seconds",
                    call="flock",
                    path=what,
                    remedy="find the holder in /proc/locks; a stopped process must be continued or killed",
                    code="network-locked",
                ) from None
            time.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 1.5, 0.01)
        else:
            return


@contextlib.contextmanager
def machine_lock() -> Iterator[None]:
    """One at a time among all run directories of this network namespace, while a pool is chosen and taken.

    The lock is on the namespace itself: exactly the scope in question, and no file is left behind.
    """
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _acquire(descriptor, "/proc/self/ns/net")
        yield
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _start_ticks(process_id: int) -> int:
    """When a process started, in ticks since boot; 0 if there is none or it is dead and not yet reaped. Source: proc(5)."""
    try:
        with open(f"/proc/{process_id}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def myself() -> Owner:
    """The calling process."""
    return Owner(process_id=os.getpid(), start_ticks=_start_ticks(os.getpid()))


def is_alive(owner: Owner) -> bool:
    """Whether that very process still runs."""
    return owner.start_ticks != 0 and _start_ticks(owner.process_id) == owner.start_ticks
