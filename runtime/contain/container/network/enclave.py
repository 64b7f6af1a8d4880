"""The enclave: one network namespace for all networks that an ordinary user's store has, in which root's code makes its bridges.

*Theory of operation.* An ordinary user may make no link in the machine's network, but everything in a network namespace that belongs to
the user namespace in which the store's containers stand. So there is one such namespace for a store. `inside` does a piece of work in
it, in a fork, since nobody who enters it could come back; it makes it if nobody is there. It lives as long as somebody is in it: the
attendant process of each container that is on a network of one's own (`contain.container.network.attendant`), or a fork that works.
Who is there is noted below the run-time state, in ``enclave/inside``, and believed only if the kernel says, too, that the network
namespace of that process belongs to this user namespace. A lock is held between the look at the notes and one's own note.

A second process, the *keeper*, connects it with the outside: it starts ``pasta`` or ``slirp4netns`` (`contain.linux.uplink`), waits for
the end of everybody who is noted, and then ends the program and itself. It holds the lock of the file ``enclave/uplink``, by which
others know that it is there; the kernel takes that back however it dies, and the program dies with it. If either is killed, the
containers go on among themselves, and the next command that looks after what killed ones left (`sweep`), or starts a container there,
starts another. Nothing stays when nobody is there.

Sources: network_namespaces(7), setns(2), ioctl_ns(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import time

from contain.annotations import TYPE_CHECKING, Any
from contain.container.door import warn_once
from contain.container.launch import describe_failure, die_with_parent, raise_failure
from contain.container.lifecycle.left_behind import StartFailed, leave_behind
from contain.container.presence import forget, hold_lock, note_myself, present
from contain.errors import Conflict, HostError, InternalError
from contain.linux import network, rtnetlink, syscalls
from contain.linux.rtnetlink import NetlinkSocket
from contain.linux.uplink import NAME_SERVER, Namespaces, UplinkProgram, find_uplink_program, open_uplink, own_address
from contain.linux.usernamespace import belongs_here, start_ticks
from contain.paths import HostPath
from contain.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_PATIENCE_SECONDS, _PAUSE_SECONDS = 10.0, 0.005
_HERE, _GO, _RESULT, _ERROR = b"h", b"g", b"r", b"e"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclosure:
    """What is different for a container in the enclave. ``notes``: where its attendant notes itself. ``upstream``: the name servers
    that are asked for names of the outside, from the enclave. ``machine``: this machine's address, as containers reach it."""

    notes: HostPath
    upstream: tuple[str, ...]
    machine: str


def enclosure_of(home: HostPath) -> Enclosure:
    """For the store with this run-time state, on this machine as it is now."""
    return Enclosure(notes=_notes(home), upstream=(NAME_SERVER,) if find_uplink_program().path else (), machine=own_address())


def warn_without_outside(home: HostPath) -> None:
    """Say once that the containers of a network reach each other, but nothing outside, where that is so."""
    program = find_uplink_program()
    if not program.path:
        warn_once(
            home,
            "no-outside",
            f"containers on networks of your own reach each other, and nothing outside: {program.why}; {program.remedy}",
        )


def inside(home: HostPath, work: Callable[[], Any], *, connected: bool = True) -> Any:
    """Do a piece of work in the enclave of the store with this run-time state, in a fork that ends with it; what it returns (JSON). The
    caller must have one thread. ``connected``: see to the way to the outside first. Raises what ``work`` raised of ours, `HostError`,
    `Conflict`."""
    ready, tell = os.pipe2(os.O_CLOEXEC)
    wait, go = os.pipe2(os.O_CLOEXEC)
    caller = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            die_with_parent(caller)
            os.close(ready)
            os.close(go)
            _enter(home)
            os.write(tell, _HERE)
            if os.read(wait, 1) == _GO:
                os.write(tell, _RESULT + json.dumps(work()).encode())
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(tell, _ERROR + describe_failure(error, None))
        finally:
            os._exit(0)
    os.close(tell)
    os.close(wait)
    told = b""
    try:
        with os.fdopen(ready, "rb") as file:
            told = file.read(1)
            if told == _HERE:
                if connected:
                    _connect(home, child)
                with contextlib.suppress(BrokenPipeError):  # somebody killed it
                    os.write(go, _GO)
                told = file.read(1)
            rest = file.read()
    finally:
        os.close(go)  # where it was not told to go on, it ends
        os.waitpid(child, 0)
    if told == _ERROR:
        raise_failure(rest, "")
    if told != _RESULT:
        raise InternalError("a process in the namespace of the store's networks ended before it was done")
    return json.loads(rest)


def sweep(live_container_ids: Collection[str], *, home: HostPath) -> None:
    """Take back what dead containers hold of networks, and see to the way to the outside if anybody is there. Costs a look at a few
    files where there is nothing to do."""
    namespace = _find(home)
    try:
        is_lost = namespace is None and network.read_bridges(home)
        if is_lost or network.needs_sweep(live_container_ids, run_home=home):
            inside(home, lambda: network.sweep_all(live_container_ids, run_home=home), connected=False)
        if namespace is not None:
            with contextlib.suppress(HostError, Conflict):  # containers that start there say what is wrong
                _connect_namespace(home, namespace)
    finally:
        if namespace is not None:
            os.close(namespace)


def _place(home: HostPath) -> HostPath:
    return home / "enclave"


def _notes(home: HostPath) -> HostPath:
    return _place(home) / "inside"


@contextlib.contextmanager
def _locked(home: HostPath) -> Iterator[None]:
    descriptor = hold_lock(_place(home) / "lock")
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # not by close alone: a fork may have it, too
        os.close(descriptor)


def _find(home: HostPath) -> int | None:
    """A descriptor of the enclave's network namespace; None if nobody is in it."""
    found: int | None = None
    for number, ticks in present(_notes(home)):
        if found is not None:
            continue
        with contextlib.suppress(OSError):
            found = os.open(f"/proc/{number}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if found is not None and (start_ticks(number) != ticks or not belongs_here(found)):
            os.close(found)
            found = None
        if found is None:
            forget(_notes(home), number, ticks)
    return found


def _enter(home: HostPath) -> None:
    """Be in the enclave, and noted, from now on."""
    _notes(home).mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(home):
        namespace = _find(home)
        if namespace is not None:
            network.enter(namespace)
            os.close(namespace)
        else:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            with NetlinkSocket() as kernel:
                kernel.transact((rtnetlink.set_up("lo"),))
            network.forget_bridges(home)
        note_myself(_notes(home))


# The way to the outside


def _connect(home: HostPath, process_id: int) -> None:
    try:
        namespace = os.open(f"/proc/{process_id}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # somebody killed it
    try:
        _connect_namespace(home, namespace)
    finally:
        os.close(namespace)


def _connect_namespace(home: HostPath, namespace: int) -> None:
    """See to it that a keeper serves, where this machine has a program for it. Raises `HostError`."""
    program = find_uplink_program()
    if not program.path:
        return
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with _locked(home):
            held = _take_keepers_lock(home)
            if held is not None:
                os.close(held)
                try:
                    leave_behind(lambda started: _keep(home, program, namespace, started), kept=(namespace,))
                except StartFailed as error:
                    raise HostError(error.message, code="uplink-failed") from error
                return
            if (_place(home) / "uplink").read_text() == _identity(namespace):
                return
        time.sleep(_PAUSE_SECONDS)  # it is that of an enclave which has just ended, and is about to see that
    raise HostError(
        "the networks of this store cannot be connected: the process that connected those before does not end",
        code="uplink-failed",
        remedy=f"find who holds {_place(home) / 'uplink'} (lslocks), and end it",
    )


def _identity(namespace: int | str) -> str:
    """Which namespace it is, by a descriptor or path."""
    status = os.stat(namespace)
    return f"{status.st_dev} {status.st_ino}"


def _take_keepers_lock(home: HostPath) -> int | None:
    descriptor = os.open(_place(home) / "uplink", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _keep(home: HostPath, program: UplinkProgram, namespace: int, started: Callable[[], None]) -> None:
    """The keeper: from the start of the program to the end of whoever is in the enclave."""
    syscalls.set_process_name("contain-uplink")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lock = _take_keepers_lock(home)
    if lock is None:
        raise InternalError("somebody else connects the networks of this store")
    own = _identity(namespace)
    (_place(home) / "uplink").write_text(own)
    # The program may not look at other processes, so that it gets the namespace as a file: in a mount namespace of its own.
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    shown = _place(home) / "net"
    shown.touch(mode=0o600)
    syscalls.mount(f"/proc/self/fd/{namespace}", str(shown), "", syscalls.MS_BIND, "")
    os.close(namespace)
    uplink = open_uplink(program, Namespaces(network=str(shown)), _place(home))
    try:
        started()
        ended = uplink.open_end()
        while not _is_over(ended):
            with _locked(home):
                everybody = [number for number, _ in present(_notes(home)) if _stands_in(number, own)]
                if not everybody:
                    uplink.close()
                    fcntl.flock(lock, fcntl.LOCK_UN)  # who comes next does not rely on this one
                    return
            for number in everybody:
                if _wait_for(number, ended):
                    return
    finally:
        uplink.close()


def _stands_in(process_id: int, namespace: str) -> bool:
    try:
        return _identity(f"/proc/{process_id}/ns/net") == namespace
    except OSError:
        return False


def _is_over(descriptor: int) -> bool:
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    return bool(watch.poll(0))


def _wait_for(process_id: int, ended: int) -> bool:
    """Until a process has ended, or the program has; whether it was the program."""
    try:
        process = os.pidfd_open(process_id)
    except ProcessLookupError:
        return False
    try:
        watch = select.poll()
        for descriptor in (process, ended):
            watch.register(descriptor, select.POLLIN)
        return any(descriptor == ended for descriptor, _ in watch.poll())
    finally:
        os.close(process)
