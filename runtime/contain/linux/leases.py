"""Which container has which address: pools, leases, and the file that all processes of one run directory share.

Decides (pure) which subnet and which address are free; keeps the decision in ``network.json`` below the run directory, under a
lock. Never talks to the kernel about networks: `contain.linux.network` does, and writes the lease before it makes a link.

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

from contain.errors import HostError
from contain.linux.rtnetlink import Route
from contain.paths import HostPath
from contain.values import dataclass, field, replace

DEFAULT_MTU_BYTES = 1500

_RECORD_VERSION = 1
_LOCK_TIMEOUT_SECONDS = 60.0


# Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """An IPv4 subnet for containers; the bridge has its first address."""

    base: int
    prefix: int

    @property
    def gateway(self) -> int:
        """The bridge's own address."""
        return self.base + 1

    @property
    def first(self) -> int:
        """The first address that a container may have."""
        return self.base + 2

    @property
    def last(self) -> int:
        """The last address that a container may have; the one after it is the broadcast address."""
        return self.base + (1 << (32 - self.prefix)) - 2

    def overlaps(self, base: int, prefix: int) -> bool:
        """Whether a subnet shares addresses with this one."""
        shift = 32 - min(self.prefix, prefix)
        return self.base >> shift == base >> shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told apart from a later one with the same number by its start time in clock ticks since boot."""

    process_id: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port of this machine that is a container's. ``host_address`` 0.0.0.0: any address of this machine."""

    protocol: str  # tcp or udp
    host_address: str
    host_port: int
    container_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One container's address, the process that asked for it, and what is published of it."""

    address: int
    owner: Owner
    ports: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """The lease file. ``holds``: processes that keep the bridge although they have no container at the moment."""

    pool: Pool | None = None
    mtu_bytes: int = DEFAULT_MTU_BYTES
    newest_address: int = 0
    leases: Mapping[str, Lease] = field(default_factory=dict)
    holds: tuple[Owner, ...] = ()


# Decisions


def dotted(address: int) -> str:
    """An IPv4 address as text."""
    return socket.inet_ntoa(address.to_bytes(4, "big"))


def number_of(address: str) -> int:
    """An IPv4 address as a number; OSError if it is none."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")


def choose_pool(routes: Sequence[Route], avoid: Collection[int]) -> Pool | None:
    """The first subnet that overlaps no route of the host and holds no address to avoid; None if all are taken.

    Candidates are Docker's default pools (172.17 to 172.31 as /16, then 192.168.0.0/16 in /20), from the other end, so that a
    Docker started later finds its own free. Routes wider than /8 are ways to everywhere (VPNs split the default route in two).
    """
    second_bytes = (30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 31, 17)
    candidates = [Pool(base=172 << 24 | second << 16, prefix=16) for second in second_bytes]
    candidates += [Pool(base=192 << 24 | 168 << 16 | third << 8, prefix=20) for third in range(240, -1, -16)]
    taken = [(route.destination, route.prefix_length) for route in routes if route.prefix_length >= 8]
    taken += [(address, 32) for address in avoid]
    for pool in candidates:
        if not any(pool.overlaps(base, prefix) for base, prefix in taken):
            return pool
    return None


def lease_address(
    record: NetworkRecord, container_id: str, owner: Owner, ports: tuple[PublishedPort, ...] = ()
) -> NetworkRecord:
    """The record with an address for the container: the one it has, else the next free one after the newest, so that an
    address rests as long as possible before it is used again. Raises `HostError` when all are taken."""
    assert record.pool is not None
    pool = record.pool
    known = record.leases.get(container_id)
    if known is not None:
        return replace(record, leases={**record.leases, container_id: replace(known, owner=owner, ports=ports)})
    used = {lease.address for lease in record.leases.values()}
    size = pool.last - pool.first + 1
    if len(used) >= size:
        raise HostError(
            f"all {size} addresses of the network {dotted(pool.base)}/{pool.prefix} are in use",
            remedy="remove containers that are not needed: contain rm",
            code="network-addresses-exhausted",
        )
    start = record.newest_address + 1 - pool.first if pool.first <= record.newest_address < pool.last else 0
    address = next(candidate for step in range(size) if (candidate := pool.first + (start + step) % size) not in used)
    lease = Lease(address=address, owner=owner, ports=ports)
    return replace(record, newest_address=address, leases={**record.leases, container_id: lease})


# The file


def encode_record(record: NetworkRecord) -> bytes:
    """The file's bytes for a record (JSON)."""
    pool = record.pool
    return json.dumps(
        {
            "version": _RECORD_VERSION,
            "pool": None if pool is None else [dotted(pool.base), pool.prefix],
            "mtu_bytes": record.mtu_bytes,
            "newest_address": dotted(record.newest_address),
            "leases": {
                name: [
                    dotted(lease.address),
                    lease.owner.process_id,
                    lease.owner.start_ticks,
                    [[port.protocol, port.host_address, port.host_port, port.container_port] for port in lease.ports],
                ]
                for name, lease in record.leases.items()
            },
            "holds": [[hold.process_id, hold.start_ticks] for hold in record.holds],
        }
    ).encode()


def decode_record(data: bytes) -> NetworkRecord | None:
    """None if the bytes are no record of this version, as after a power failure."""
    try:
        value = json.loads(data)
        if value["version"] != _RECORD_VERSION:
            return None
        pool = value["pool"]
        return NetworkRecord(
            pool=None if pool is None else Pool(base=number_of(pool[0]), prefix=int(pool[1])),
            mtu_bytes=int(value["mtu_bytes"]),
            newest_address=number_of(value["newest_address"]),
            leases={
                str(name): Lease(
                    address=number_of(address),
                    owner=Owner(process_id=int(process), start_ticks=int(start)),
                    ports=tuple(
                        PublishedPort(
                            protocol=str(protocol),
                            host_address=str(host),
                            host_port=int(port),
                            container_port=int(inner),
                        )
                        for protocol, host, port, inner in (ports[0] if ports else ())
                    ),
                )
                for name, (address, process, start, *ports) in value["leases"].items()
            },
            holds=tuple(Owner(process_id=int(process), start_ticks=int(start)) for process, start in value["holds"]),
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
