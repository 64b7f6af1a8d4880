"""A small process beside a container that answers its DNS queries and carries its ports at IPv6 addresses; none where neither is
needed.

*Theory of operation.* It is a fork of the container's starter (or of ``contain network connect``; in an ordinary user's enclave, of
a fork of theirs that has entered it), so it costs no interpreter of its own, and the starter has no threads. It enters the
container's network namespace, makes the interfaces there complete (`contain.linux.network.configure`), opens its sockets at
127.0.0.11 with the redirection from port 53, and goes back; then it tells the starter that all stands, gives up all capabilities
and serves. It reads what it needs from the lease files, so nobody has to tell it about others.

It dies with its starter (PR_SET_PDEATHSIG), and in any case with the container's first process, which it watches by descriptor.
Somebody else may end it: then the container's supervisor starts it again (`contain.container.lifecycle.reviving`).
It keeps none of the starter's descriptors, above all not those that hold locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable

from contain.annotations import TYPE_CHECKING
from contain.container.launch import describe_failure, die_with_parent, raise_failure, reset_signals
from contain.container.lifecycle.left_behind import keep_only
from contain.container.network.etc_files import RESOLVER_ADDRESS
from contain.container.presence import note_myself
from contain.errors import InternalError
from contain.linux import network, nftables, rtnetlink, syscalls
from contain.linux.leases import Owner, dotted, is_alive, myself
from contain.linux.network import Attachment
from contain.linux.resolver import read_upstream
from contain.linux.rtnetlink import NETLINK_NETFILTER, NetlinkSocket
from contain.paths import HostPath
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.container.network.enclave import Enclosure
    from contain.container.network.names import LeaseFiles

RESOLVER_TABLE = "contain-resolver"
_MOST_DESCRIPTORS = 65536
_DESCRIPTORS_FOR_NAMES = 512
_MOST_FAILURES = 10000
_PATIENCE_SECONDS = 30.0
_SAID_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties:
    """What one is for. ``attachments``: interfaces to complete first. ``answers_names``: be the container's name server;
    ``servers``: ask these for names outside, from the container's own network, instead of this machine's. ``relayed``:
    descriptors of bound sockets, each with the container's port. ``enclosure``: in the enclave, which it is one of those to keep;
    from there it asks."""

    container_id: str
    run_home: HostPath
    attachments: tuple[Attachment, ...] = ()
    answers_names: bool = True
    servers: tuple[str, ...] = ()
    relayed: tuple[tuple[int, int], ...] = ()
    enclosure: Enclosure | None = None

    @property
    def is_needed(self) -> bool:
        """Whether anything remains to be done once the interfaces stand."""
        return self.answers_names or bool(self.relayed)


class Attendant:
    """One that serves, or has done all that it had to do. ``descriptor``: readable when it has ended; -1 where it is nobody's child."""

    def __init__(self, process_id: int, descriptor: int, duties: Duties, first_process: int, note: HostPath | None) -> None:
        self.process_id, self.descriptor = process_id, descriptor
        self._duties, self._first_process, self._note = duties, first_process, note

    def close(self) -> None:
        """End it; twice is the same as once."""
        if self.descriptor < 0:
            return
        os.close(self.descriptor)
        self.descriptor = -1
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process_id, signal.SIGKILL)  # a child that nobody has waited for: the number is still its own
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.process_id, 0)

    def is_replaced(self) -> bool:
        """Whether another one does all that it did."""
        return self._note is not None and not self._duties.relayed and answers(self._note)

    def revive(self) -> None:
        """Start it again, in the place of one that has been closed, for the interfaces that stand. Nothing to do if another one has
        begun to answer meanwhile (``contain network connect``). Raises what starting it raises."""
        if self.is_replaced():
            return
        duties = replace(self._duties, attachments=())
        self.process_id, self.descriptor = _start(duties, self._first_process, self._note, outlives_caller=False)


def start_attendant(
    duties: Duties, first_process: int, *, outlives_caller: bool = False, note: HostPath | None = None
) -> Attendant:
    """Start one for a container with this first process. Returns when interfaces and name server stand.

    In the enclave the caller is a fork of the container's supervisor, and the attendant is the supervisor's child.
    ``outlives_caller``: it ends with the container only; the caller need not end it. ``note``: a file that says which process it
    is. Raises `HostError` and what completing the interfaces raises; then it is gone.
    """
    process_id, descriptor = _start(duties, first_process, note, outlives_caller=outlives_caller)
    return Attendant(process_id, descriptor, duties, first_process, note)


def _start(duties: Duties, first_process: int, note: HostPath | None, *, outlives_caller: bool) -> tuple[int, int]:
    """Its process id, and a descriptor of the process or -1."""
    ready, tell = os.pipe2(os.O_CLOEXEC)
    is_beside = duties.enclosure is not None and not outlives_caller
    parent = os.getppid() if is_beside else os.getpid()
    child = syscalls.fork_beside() if is_beside else os.fork()
    if child == 0:
        try:
            os.setsid()
            if outlives_caller:
                if os.fork():
                    os._exit(0)
            else:
                die_with_parent(parent)
            _serve(duties, first_process, tell, note)
        finally:
            os._exit(0)
    os.close(tell)
    if outlives_caller:
        os.waitpid(child, 0)
    told = _read_all(ready, _PATIENCE_SECONDS)
    os.close(ready)
    if told != b"ready":
        if not outlives_caller:
            os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # the supervisor's, which learns of its end only
                os.waitpid(child, 0)
        if not told:
            raise InternalError("the container's attendant process was not ready in time, or ended before it was")
        raise_failure(told, "")
    return child, -1 if outlives_caller else os.pidfd_open(child)


def _read_all(descriptor: int, seconds: float) -> bytes:
    """What comes until the other side is closed, or the time is over: a supervisor has more to do than to wait for ever."""
    told, deadline = b"", time.monotonic() + seconds
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data = os.read(descriptor, _SAID_BYTES)
        if not data:
            return told
        told += data
    return b""


def _serve(duties: Duties, first_process: int, tell: int, note: HostPath | None) -> None:
    try:
        reset_signals()
        syscalls.set_process_name("contain-names")
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        _keep_only(tell, *(number for number, _ in duties.relayed))
        most_descriptors = _raise_descriptor_limit()
        watched = os.pidfd_open(first_process)
        streams, datagrams = _work_inside(duties, first_process)
        enclosure = duties.enclosure
        upstream = duties.servers or (read_upstream() if enclosure is None else enclosure.upstream)
        if enclosure is not None:
            note_myself(enclosure.notes)
        if note is not None and duties.is_needed:
            _write_note(note)
        _give_up_capabilities(can_be_found=enclosure is not None)
        os.write(tell, b"ready")
        os.close(tell)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(tell, describe_failure(error, None))
        return
    if not duties.is_needed:
        return
    # Only now, when nobody waits for this process any more.
    from contain.container.lifecycle.loop import Loop
    from contain.container.network.names import LeaseFiles

    with Loop() as loop:
        loop.watch(watched, lambda: os._exit(0))
        kept: list[object] = []
        files = LeaseFiles(duties.run_home)
        if streams is not None and datagrams is not None:
            from contain.container.network.resolving import Resolver

            kept.append(
                Resolver(
                    loop,
                    files=files,
                    container_id=duties.container_id,
                    servers=upstream,
                    datagrams=datagrams,
                    streams=streams,
                )
            )
        if duties.relayed:
            from contain.container.network.relay import open_relay
        each = max((most_descriptors - _DESCRIPTORS_FOR_NAMES) // max(len(duties.relayed), 1), 64)
        for number, port in duties.relayed:
            target = _target(files, duties.container_id, port)
            kept.append(open_relay(loop, socket.socket(fileno=number), target, most_descriptors=each))
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                loop.turn()
            except Exception:  # of one query or connection; the others are served on
                failures += 1


def _raise_descriptor_limit() -> int:
    """As many descriptors as this process may have, at most 65536; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _target(files: LeaseFiles, container_id: str, port: int) -> Callable[[], tuple[str, int] | None]:
    """Where a container's published port is at this moment: on the network that publishes it."""

    def look_up() -> tuple[str, int] | None:
        for record in files.records():
            lease = record.leases.get(container_id)
            if lease is not None and lease.ports:
                return dotted(lease.address), port
        return None

    return look_up


def _keep_only(*kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null > 2:
        for number in range(3):
            if number not in kept:
                os.dup2(null, number)
    keep_only(*kept)


def _work_inside(duties: Duties, first_process: int) -> tuple[socket.socket | None, socket.socket | None]:
    """In the container's network namespace: its interfaces and the name server's sockets. Afterwards this process is outside again,
    unless it is to ask other servers from there."""
    streams: socket.socket | None = None
    datagrams: socket.socket | None = None
    if not duties.attachments and not duties.answers_names:
        return None, None
    outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inside = os.open(f"/proc/{first_process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    network.enter(inside)
    for attachment in duties.attachments:
        network.configure(attachment)
    if duties.answers_names:
        with NetlinkSocket() as kernel:
            kernel.transact((rtnetlink.set_up("lo"),))
        streams = socket.create_server((RESOLVER_ADDRESS, 0), backlog=64)
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((RESOLVER_ADDRESS, 0))
        ports = {"tcp": streams.getsockname()[1], "udp": datagrams.getsockname()[1]}
        with NetlinkSocket(NETLINK_NETFILTER) as tables:
            nftables.redirect_resolver(tables, RESOLVER_TABLE, RESOLVER_ADDRESS, ports)
    if not duties.servers or duties.enclosure is not None:
        network.enter(outside)
    os.close(inside)
    os.close(outside)
    return streams, datagrams


def _give_up_capabilities(*, can_be_found: bool) -> None:
    """It reads files of its own user and has its sockets: nothing needs a privilege any more. ``can_be_found``: later commands may
    enter the network namespace that it is in; no container has power over it, whose user namespace is further in."""
    if not can_be_found:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.capset(0, 0)


def in_namespace(first_process: int, work: Callable[[], None]) -> None:
    """Do something in a container's network namespace, in a process that ends with it. Raises what ``work`` raised of ours."""
    ready, tell = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            descriptor = os.open(f"/proc/{first_process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            network.enter(descriptor)
            work()
            os.write(tell, b"ready")
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(tell, describe_failure(error, None))
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(ready, "rb") as file:
        told = file.read()
    os.waitpid(child, 0)
    if told != b"ready":
        if not told:
            raise InternalError("a process in the container's network ended before it was done")
        raise_failure(told, "")


def _write_note(path: HostPath) -> None:
    me = myself()
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(json.dumps([me.process_id, me.start_ticks]))
    aside.rename(path)


def answers(note: HostPath) -> bool:
    """Whether the attendant that wrote the note still serves."""
    try:
        process_id, start_ticks = json.loads(note.read_text())
        return is_alive(Owner(process_id=int(process_id), start_ticks=int(start_ticks)))
    except (OSError, ValueError, TypeError):
        return False
