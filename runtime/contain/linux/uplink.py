"""The way out of an ordinary user's network namespace: a program of this user carries its packets, since nobody else may make links.

Decides which program is used, ``pasta`` (passt) before ``slirp4netns``, with which arguments; starts it, waits until the namespace has
its address, and sees to its end. Without one of them there is no way out. The namespace is a container's own, or that in which the
bridges of the user's networks stand (`contain.container.network.enclave`); it is 10.0.2.100, and does not reach what listens on this
machine's own loopback.

Theory of operation. The program must not outlive the container, whoever is killed when. So it runs in a PID namespace of its own::

    supervisor --fork--> watch --fork--> first process of that namespace --fork, exec--> pasta

Each dies with its parent (PR_SET_PDEATHSIG), and when a PID namespace's first process dies the kernel kills all others in it. The
program itself cannot be asked to die with its parent: the kernel forgets that when a process changes its user namespace.

Sources: pasta(1), slirp4netns(1), pid_namespaces(7).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Sequence

from contain.errors import HostError
from contain.linux import syscalls
from contain.linux.leases import Lease, Owner, PublishedPort, number_of
from contain.paths import HostPath
from contain.values import asdict, dataclass, replace

ADDRESS, GATEWAY, NAME_SERVER, PREFIX = "10.0.2.100", "10.0.2.2", "10.0.2.3", 24
INTERFACE = "eth0"
PROGRAMS = ("pasta", "slirp4netns")
_LEASE = "uplink.json"
_TUN = "/dev/net/tun"
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.002
_LARGEST_ANSWER = 4096
_NOISE = "Failed to send "  # what pasta says where no system log listens


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkProgram:
    """What would carry a container's packets: ``path`` "" if nothing can, and then ``why`` and ``remedy``."""

    name: str = ""
    path: str = ""
    why: str = ""
    remedy: str = ""


def find_uplink_program() -> UplinkProgram:
    """What this machine has."""
    import shutil

    found = next(((name, path) for name in PROGRAMS if (path := shutil.which(name)) is not None), None)
    if found is None:
        return UplinkProgram(
            why="neither pasta nor slirp4netns is installed", remedy="install passt or slirp4netns (Debian: apt install passt)"
        )
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return UplinkProgram(
            why=f"{found[0]} cannot open {_TUN}: {os.strerror(error.errno or 0)}",
            remedy=f"as root: modprobe tun && chmod 666 {_TUN}, as udev does",
        )
    return UplinkProgram(name=found[0], path=found[1])


def _is_twin(port: PublishedPort, ports: Sequence[PublishedPort]) -> bool:
    """Whether this is the IPv6 half of a port that is published at every address of the machine."""
    return port.host_address == "::" and replace(port, host_address="0.0.0.0") in ports  # noqa: S104 - as asked with -p


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """Paths of what is to be connected: a network namespace, and the user namespace that it belongs to, "" for the caller's own."""

    network: str
    user: str = ""


def namespaces_of(process_id: int) -> Namespaces:
    """A container's, by its first process."""
    return Namespaces(network=f"/proc/{process_id}/ns/net", user=f"/proc/{process_id}/ns/user")


def plan_pasta(path: str, namespaces: Namespaces, ready_file: str, ports: Sequence[PublishedPort]) -> tuple[str, ...]:
    """Its command line."""
    published: dict[str, list[str]] = {"tcp": [], "udp": []}
    for port in ports:
        if not _is_twin(port, ports):
            address = "" if any(_is_twin(other, (port,)) for other in ports) else f"{port.host_address}/"
            published[port.protocol].append(f"{address}{port.host_port}:{port.container_port}")
    options = ["--config-net", "--no-map-gw", "-f", "--quiet"]
    options += ["-a", ADDRESS, "-n", str(PREFIX), "-g", GATEWAY, "--dns-forward", NAME_SERVER]
    for option, protocol in (("-t", "tcp"), ("-u", "udp")):
        for each in published[protocol] or ["none"]:
            options += [option, each]
    options += ["-T", "none", "-U", "none", "-I", INTERFACE, "--pid", ready_file]
    options += ["--userns", namespaces.user] if namespaces.user else ["--netns-only"]
    return (path, *options, "--netns", namespaces.network)


def plan_slirp(path: str, namespaces: Namespaces, ready: int, api_socket: str) -> tuple[str, ...]:
    """Its command line. ``ready``: a descriptor that it writes to; ``api_socket``: where it is told of published ports."""
    return (
        path,
        *("--configure", "--mtu=65520", "--disable-host-loopback", f"--ready-fd={ready}", f"--api-socket={api_socket}"),
        *(
            "--netns-type=path",
            *([f"--userns-path={namespaces.user}"] if namespaces.user else []),
            namespaces.network,
            INTERFACE,
        ),
    )


class Uplink:
    """A program at work. Made by `open_uplink`."""

    def __init__(self, watch: int) -> None:
        self._watch = watch

    def open_end(self) -> int:
        """A descriptor, the caller's, that is readable when it has ended."""
        return os.pidfd_open(self._watch)

    def close(self) -> None:
        """End it; returns when it is gone."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._watch, signal.SIGTERM)
            os.waitpid(self._watch, 0)


def open_uplink(
    program: UplinkProgram, namespaces: Namespaces, directory: HostPath, ports: Sequence[PublishedPort] = ()
) -> Uplink:
    """Connect a network namespace, and publish its ports. ``directory``: of the run-time state, for what the program says and writes.
    Raises `HostError`; then nothing is left running. The caller must have one thread."""
    said, ready_file, api = directory / "uplink.log", directory / "uplink.ready", directory / "uplink.api"
    for left in (ready_file, api):  # of one that was killed
        left.unlink(missing_ok=True)
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    if program.name == "pasta":
        command = plan_pasta(program.path, namespaces, str(ready_file), ports)
    else:
        command = plan_slirp(program.path, namespaces, 3, api.name)  # below its working directory: such names are short
    watch = os.fork()
    if watch == 0:
        _watch(command, str(said), ready_write, str(directory))
    os.close(ready_write)
    uplink = Uplink(watch)
    try:
        _await_ready(ready_read, ready_file if program.name == "pasta" else None, watch)
        if program.name != "pasta":
            for port in ports:
                if not _is_twin(port, ports):  # it knows IPv4 only
                    _publish(api, port)
    except OSError as error:
        uplink.close()
        text = said.read_text(errors="replace") if said.exists() else ""
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_NOISE)]
        raise HostError(
            f"{program.name} could not connect the containers: {lines[-1] if lines else error.strerror or error}",
            code="uplink-failed",
            remedy="--network none or --network host need no such program; `contain doctor` says what this machine has",
        ) from error
    finally:
        os.close(ready_read)
    return uplink


def own_address() -> str:
    """This machine's address towards the outside; sends nothing. Its loopback where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # RFC 5737: nobody's
            address = str(asked.getsockname()[0])
        except OSError:
            address = "127.0.0.1"
    return address


def write_uplink_lease(directory: HostPath, ports: Sequence[PublishedPort]) -> None:
    """Note what is published, for other commands; goes with the container's run-time state."""
    (directory / _LEASE).write_text(json.dumps([asdict(port) for port in ports]))


def read_uplink_lease(directory: HostPath) -> Lease | None:
    """What `write_uplink_lease` noted; None if nothing."""
    try:
        rows = json.loads((directory / _LEASE).read_text())
        ports = tuple(PublishedPort(**row) for row in rows)
    except (OSError, ValueError, TypeError):
        return None
    return Lease(address=number_of(ADDRESS), owner=Owner(process_id=0, start_ticks=0), ports=ports)


def _await_ready(ready: int, ready_file: HostPath | None, watch: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    os.set_blocking(ready, False)
    while time.monotonic() < deadline:
        if ready_file is not None:
            with contextlib.suppress(FileNotFoundError):
                if ready_file.stat().st_size:
                    return
        else:
            with contextlib.suppress(BlockingIOError):
                if os.read(ready, 1):
                    return
        if os.waitid(os.P_PID, watch, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise OSError(0, "it ended at once")
        time.sleep(_PAUSE_SECONDS)
    raise OSError(0, f"it was not ready after {_PATIENCE_SECONDS:.0f} seconds")


def _publish(api: HostPath, port: PublishedPort) -> None:
    request = {
        "execute": "add_hostfwd",
        "arguments": {
            "proto": port.protocol,
            "host_addr": port.host_address,
            "host_port": port.host_port,
            "guest_addr": ADDRESS,
            "guest_port": port.container_port,
        },
    }
    directory = os.open(api.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_SECONDS)
            connection.connect(
                f"/proc/self/fd/{directory}/{api.name}"
            )  # a path in such an address has at most 107 bytes (unix(7))
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(_LARGEST_ANSWER)
    finally:
        os.close(directory)
    if b'"error"' in answer:
        raise OSError(0, f"port {port.host_port}: {answer.decode(errors='replace').strip()}")


def _die_with(parent: int) -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _watch(command: tuple[str, ...], said: str, ready: int, directory: str) -> None:
    """In the child of the supervisor: never returns."""
    try:
        supervisor = os.getppid()
        os.setsid()  # the terminal's Ctrl-C is for the container
        _die_with(supervisor)
        os.chdir(directory)
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        for source, number in ((ready, 203), (null, 200), (log, 201)):
            os.dup2(source, number)
        for source, number in ((200, 0), (201, 1), (201, 2), (203, 3)):
            os.dup2(source, number)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))  # the locks of the container are not this process's to hold
        for number in signal.valid_signals():
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        syscalls.unshare(syscalls.CLONE_NEWPID)
        alive_read, alive_write = os.pipe2(os.O_CLOEXEC)
        first = os.fork()
        if first == 0:
            os.close(alive_write)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # its parent is out of its sight: getppid(2) says 0
            watch = select.poll()
            watch.register(alive_read, select.POLLHUP)
            if watch.poll(0):
                os._exit(1)
            child = os.fork()
            if child == 0:
                os.execv(command[0], command)
            while os.waitpid(-1, 0)[0] != child:
                pass
            os._exit(0)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))
        os.waitpid(first, 0)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"{error}\n".encode())
    finally:
        os._exit(0)
